"""The dual form equals the definition."""

import pytest
import torch

from titans.memory import MemoryState, chunk_titans, recurrent_titans, reference_titans


def test_equals_the_reference(case, new_problem, answer, equal):
    problem = new_problem(case)
    equal(answer(chunk_titans, problem), answer(reference_titans, problem), 1e-10)


@pytest.mark.parametrize(("chunk_size", "depth", "gates"), [(1, 1, "layer"), (16, 2, "layer"), (64, 3, "channel")])
@pytest.mark.parametrize("operation", [chunk_titans, recurrent_titans], ids=lambda f: f.__name__)
def test_single_precision_is_close_to_the_double_precision_reference(
    operation, chunk_size, depth, gates, new_case, new_problem, run
):
    problem = new_problem(new_case(100, chunk_size, depth=depth, gates=gates, before=5))
    expected, expected_state = run(reference_titans, problem)
    y, state = run(operation, problem.float())
    assert y.dtype == torch.float32
    pairs = [(y, expected), *zip(state.tensors().values(), expected_state.tensors().values(), strict=True)]
    for got, want in pairs:
        if want.numel():
            assert (got - want).abs().max() <= 1e-4 * want.abs().max()


def test_the_guard_acts_in_these_problems(new_case, new_problem, run):
    # Else its agreement with the reference would be tested by nothing.
    problem = new_problem(new_case(64, 16))
    free, _ = run(chunk_titans, new_problem(new_case(64, 16, guard_limit=None)))
    guarded, _ = run(chunk_titans, problem)
    assert (free - guarded).abs().max() > 1e-3


def test_a_call_without_weights_begins_with_a_linear_memory_of_zeros(new_case, new_problem):
    problem = new_problem(new_case(9, 4, depth=1))
    arguments = (problem.q, problem.k, problem.v, problem.g, problem.log_eta, problem.theta)
    y, _ = chunk_titans(*arguments, chunk_size=4)
    expected, _ = chunk_titans(*arguments, (torch.zeros_like(problem.weights[0]),), chunk_size=4)
    torch.testing.assert_close(y, expected, rtol=0, atol=0)


def test_a_state_brings_its_weights_along(new_case, new_problem):
    problem = new_problem(new_case(9, 4, depth=1, before=6))
    arguments = (problem.q, problem.k, problem.v, problem.g, problem.log_eta, problem.theta)
    y, _ = chunk_titans(*arguments, chunk_size=4, initial_state=problem.state)
    expected, _ = chunk_titans(*arguments, problem.weights, chunk_size=4, initial_state=problem.state)
    torch.testing.assert_close(y, expected, rtol=0, atol=0)


def test_gates_of_one_value_per_head_need_no_last_axis(new_case, new_problem, equal):
    problem = new_problem(new_case(9, 4, gates="shared"))
    arguments = (problem.q, problem.k, problem.v)
    gates = (problem.g, problem.log_eta, problem.theta)
    y, _ = chunk_titans(*arguments, *gates, problem.weights, problem.norm, chunk_size=4)
    bare, _ = chunk_titans(*arguments, *(x[..., 0] for x in gates), problem.weights, problem.norm, chunk_size=4)
    equal({"y": bare}, {"y": y}, 0.0)


def test_the_final_state_is_returned_only_on_request(new_case, new_problem):
    problem = new_problem(new_case(3, 4, depth=1))
    arguments = (problem.q, problem.k, problem.v, problem.g, problem.log_eta, problem.theta)
    assert chunk_titans(*arguments)[1] is None
    assert isinstance(chunk_titans(*arguments, output_final_state=True)[1], MemoryState)


def test_half_precision_inputs_keep_a_single_precision_state(new_case, new_problem, run):
    problem = new_problem(new_case(100, 16))
    expected, _ = run(chunk_titans, problem)
    single = problem.float()
    halves = {name: getattr(single, name).bfloat16() for name in ("q", "k", "v")}
    arguments = (single.g, single.log_eta, single.theta, single.weights, single.norm)
    y, state = chunk_titans(**halves, **dict(zip(("g", "log_eta", "theta", "weights", "norm"), arguments, strict=True)),
                            output_final_state=True)  # fmt: skip
    assert y.dtype == torch.bfloat16
    assert state is not None
    assert all(x.dtype == torch.float32 for x in state.tensors().values() if x.is_floating_point())
    assert (y.double() - expected).abs().max() < 0.03 * expected.abs().max()


def test_autocast_does_not_reach_into_the_operation(new_case, new_problem, run, equal):
    problem = new_problem(new_case(40, 16)).float()
    expected, _ = run(chunk_titans, problem)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = run(chunk_titans, problem)
    equal({"y": y}, {"y": expected}, 0.0)

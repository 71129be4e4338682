"""What all three forms of the operation promise: gates that shut, absent tokens, packed documents, splits, errors."""

import itertools
from dataclasses import replace

import pytest
import torch

from titans.memory import MemoryState, Norm, chunk_titans, native_titans, recurrent_titans, reference_titans

OPERATIONS = [chunk_titans, recurrent_titans, reference_titans]
every_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda f: f.__name__)
CHUNK = 4


@every_operation
@pytest.mark.parametrize("gates", ["shared", "layer", "channel"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gates_may_shut_exactly(operation, gates, dtype, new_case, new_problem, run):
    """eta = 0 and alpha = 1 at whole chunks, at single tokens and at the end of the call."""
    problem = new_problem(new_case(27, CHUNK, gates=gates), dtype)
    g, log_eta = problem.g.detach().clone(), problem.log_eta.detach().clone()
    shut, nearly = [2, 3, 8, 9, 10, 11, 15, 25, 26], []
    for gate in (g, log_eta):
        gate[:, shut] = -torch.inf
        nearly.append(gate.masked_fill(gate == -torch.inf, -80.0))
    problem = replace(problem, g=g.requires_grad_(), log_eta=log_eta.requires_grad_())
    y, state = run(operation, problem)
    expected, expected_state = run(operation, replace(problem, g=nearly[0], log_eta=nearly[1]))
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-12)
    for name, tensor in state.tensors().items():
        if not name.startswith("gates"):
            torch.testing.assert_close(tensor, expected_state.tensors()[name], rtol=1e-5, atol=1e-5)
        assert not bool(tensor.isnan().any()), f"state.{name}"
    loss = y.square().sum() + sum(w.square().sum() for w in state.weights)
    for name, gradient in zip(
        problem.leaves(), torch.autograd.grad(loss, list(problem.leaves().values())), strict=True
    ):
        assert bool(torch.isfinite(gradient).all()), name


@every_operation
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_momentum_may_be_kept_for_ever(operation, dtype, new_case, new_problem, run):
    """eta = 1 exactly, with keys that are orthogonal."""
    problem = new_problem(new_case(12, CHUNK, depth=1), dtype)
    keys = torch.eye(4, dtype=dtype)[torch.arange(12) % 3].view(1, 12, 1, 4).expand(1, 12, 2, 4)
    problem = replace(problem, q=keys, k=keys, log_eta=torch.zeros_like(problem.log_eta).requires_grad_())
    y, _ = run(operation, problem)
    assert bool(torch.isfinite(y).all())
    expected, _ = run(reference_titans, problem)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-10)
    leaves = [problem.v, problem.theta, problem.g, problem.log_eta]
    assert all(bool(torch.isfinite(x).all()) for x in torch.autograd.grad(y.square().sum(), leaves))


@every_operation
def test_a_stream_goes_on_after_gates_that_shut(operation, new_case, new_problem, run):
    problem = new_problem(new_case(24, CHUNK))
    g, log_eta = problem.g.detach().clone(), problem.log_eta.detach().clone()
    g[:, [3, 7, 9]] = log_eta[:, [3, 7, 10]] = -torch.inf
    problem = replace(problem, g=g, log_eta=log_eta)
    whole, _ = run(operation, problem)
    state, pieces = None, []
    for start in range(0, 24, 2):
        piece, state = run(operation, problem.tokens(start, start + 2, state))
        pieces.append(piece)
        assert not any(bool(tensor.isnan().any()) for tensor in state.tensors().values())
    assert bool(torch.isfinite(whole).all())
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-10)


@every_operation
@pytest.mark.parametrize("with_flags", [False, True])
@pytest.mark.parametrize("gates", ["layer", "channel"])
def test_any_split_is_one_call(operation, with_flags, gates, new_case, new_problem, run, equal):
    problem = new_problem(new_case(40, CHUNK, rows=2, before=6, gates=gates, flags=with_flags))
    y, end = run(operation, problem)
    for steps in ([1, 5, 3, 4, 5, 8, 14], [20, 20], [7, 0, 33], [39, 1]):
        state, pieces, t = problem.state, [], 0
        for step in steps:
            piece, state = run(operation, problem.tokens(t, t + step, state))
            pieces.append(piece)
            t += step
        assert t == 40
        equal({"y": torch.cat(pieces, 1), **state.tensors()}, {"y": y, **end.tensors()}, 1e-10)


@every_operation
def test_absent_tokens_and_resets_are_absent_tokens_and_new_documents(operation, new_case, new_problem, run):
    problem = new_problem(new_case(40, CHUNK, rows=3, flags=True))
    y, _ = run(operation, problem)
    assert (y[~problem.mask] == 0).all()
    for row in range(3):
        documents: list[list[int]] = [[]]
        for t in problem.mask[row].nonzero().flatten().tolist():
            if problem.reset[row, t]:
                documents.append([])
            documents[-1].append(t)
        for tokens in filter(None, documents):
            alone, _ = run(operation, problem.at([row], tokens))
            torch.testing.assert_close(y[row, tokens], alone[0], rtol=0, atol=1e-12)


@every_operation
def test_a_row_without_tokens_keeps_its_state(operation, new_case, new_problem, run):
    problem = replace(new_problem(new_case(5, CHUNK, rows=2, before=6)), mask=torch.tensor([[1] * 5, [0] * 5]))
    _, state = run(operation, problem)
    for name, tensor in problem.state.tensors().items():
        torch.testing.assert_close(state.tensors()[name][1], tensor[1], rtol=0, atol=0, msg=name)


@every_operation
def test_packed_documents_are_separate_runs(operation, new_case, new_problem, equal):
    problem = new_problem(new_case(23, CHUNK))
    bounds = [0, 7, 7, 8, 23]  # an empty document among them
    arguments = (problem.q, problem.k, problem.v, problem.g, problem.log_eta, problem.theta)
    settings = {"chunk_size": CHUNK, "output_final_state": True}
    cu_seqlens = torch.tensor(bounds)
    y, state = operation(*arguments, problem.weights, problem.norm, cu_seqlens=cu_seqlens, **settings)
    assert len(state.position) == 4
    assert state.position.tolist() == [7, 0, 1, 15]
    assert bool(torch.isfinite(y).all())
    second, ends = operation(
        *arguments, problem.weights, problem.norm, cu_seqlens=cu_seqlens, initial_state=state, **settings
    )
    for i, (start, stop) in enumerate(itertools.pairwise(bounds)):
        if start == stop:
            continue
        part = [x[:, start:stop] for x in arguments]
        alone, end = operation(*part, problem.weights, problem.norm, **settings)
        equal({"y": y[:, start:stop]}, {"y": alone}, 1e-12)
        equal(state.select(torch.tensor([i])).tensors(), end.tensors(), 1e-12)
        again, end = operation(*part, problem.weights, problem.norm, initial_state=end, **settings)
        equal({"y": second[:, start:stop]}, {"y": again}, 1e-12)
        equal(ends.select(torch.tensor([i])).tensors(), end.tensors(), 1e-12)


@every_operation
@pytest.mark.parametrize("at", [3, 4, 5, 9])
def test_later_tokens_change_nothing_earlier(operation, at, new_case, new_problem, run):
    problem = new_problem(new_case(14, CHUNK, rows=2, before=2))
    y, _ = run(operation, problem)
    other = new_problem(new_case(14, CHUNK, rows=2))
    names = ("q", "k", "v", "g", "log_eta", "theta")
    changed = {n: torch.cat([getattr(problem, n)[:, :at], getattr(other, n)[:, at:]], 1) for n in names}
    again, _ = run(operation, replace(problem, **changed))
    assert (y[:, :at] - again[:, :at]).abs().max() <= 1e-12
    assert (y[:, at:] - again[:, at:]).abs().amin(dim=(0, 2, 3)).min() > 1e-6


@every_operation
def test_rows_and_heads_do_not_influence_each_other(operation, new_case, new_problem, run):
    problem = new_problem(new_case(14, CHUNK, rows=3, heads=2, before=2))
    y, _ = run(operation, problem)
    v = problem.v.detach().clone()
    v[1, :, 0] += 1
    again, _ = run(operation, replace(problem, v=v))
    changed = (y != again).any(dim=(1, 3))
    assert changed.tolist() == [[False, False], [True, False], [False, False]]


@every_operation
def test_a_call_leaves_its_arguments_alone_and_remembers_nothing(operation, new_case, new_problem, run):
    problem = new_problem(new_case(14, CHUNK, rows=2, before=2))
    before = {name: x.detach().clone() for name, x in problem.leaves().items()}
    y, _ = run(operation, problem)
    run(operation, new_problem(new_case(14, CHUNK, rows=2)))
    again, _ = run(operation, problem)
    assert torch.equal(y, again)
    for name, x in problem.leaves().items():
        assert torch.equal(x, before[name]), name


def test_gradients_stop_at_a_detached_state(new_case, new_problem, run):
    # Truncated backpropagation: each call after detach has a graph of its own.
    problem = new_problem(new_case(12, CHUNK))
    _, state = run(chunk_titans, problem.tokens(0, 6, None))
    y, _ = run(chunk_titans, problem.tokens(6, 12, state.detach()))
    (gradient,) = torch.autograd.grad(y.sum(), problem.v)
    assert (gradient[:, :6] == 0).all()
    assert gradient[:, 6:].abs().max() > 0


def refused(problem, match: str, **changes) -> None:
    names = ("q", "k", "v", "g", "log_eta", "theta", "weights", "norm")
    arguments = {name: getattr(problem, name) for name in names} | {"chunk_size": CHUNK} | changes
    for operation in [*OPERATIONS, native_titans]:
        with pytest.raises(ValueError, match=match) as caught:
            operation(**arguments)
        assert "\n" not in str(caught.value)


@pytest.fixture
def problem(new_case, new_problem):
    return new_problem(new_case(6, CHUNK, rows=2))


def test_wrong_shapes_are_refused(problem):
    refused(problem, r"q, k, v must share one shape \[B, T, H, d\]", q=problem.q[0])
    refused(problem, "q, k, v must share one shape", k=problem.k[:, :5])
    refused(problem, "q, k, v must share one shape", v=problem.v[..., :3])
    refused(problem, "g must be", g=problem.g[:, :5])
    refused(problem, "g must be", g=torch.zeros(2, 6, 2, 5))
    refused(problem, "theta must be", theta=problem.theta[:, :, :1])
    refused(problem, "log_eta must be", log_eta=torch.zeros(2, 6, 2, 3))
    refused(problem, r"memory weights must be \[H, d_in, d_out\]", weights=(problem.weights[0], problem.weights[0]))
    for shape in ((5,), (2, 6), (1,)):
        refused(problem, r"norm must hold weight and bias \[H, d\]", norm=Norm(torch.ones(shape), torch.zeros(shape)))
    refused(problem, "weights is empty", weights=())
    refused(problem, "must be floating-point", q=torch.ones_like(problem.q, dtype=torch.int64))
    refused(problem, "initial_state must be a MemoryState, got str", initial_state="x")
    refused(problem, r"mask must be \[B, T\]", mask=torch.ones(2, 5))
    for name in ("q", "k", "v", "g", "theta", "mask", "reset"):
        refused(problem, f"{name} must be a tensor, got list", **{name: [0.0]})
    for shape in ((2, 6, 0, 4), (2, 6, 2, 0)):
        empty = torch.zeros(shape)
        refused(problem, "at least one head of one channel", q=empty, k=empty, v=empty)
    refused(problem, r"reset must be \[B, T\]", reset=torch.ones(1, 6))


def test_a_tensor_on_another_device_is_refused(problem, new_case, new_problem, run):
    for name in ("k", "v", "g", "log_eta", "theta"):
        refused(problem, f"{name} is on meta, the rest of the call on cpu", **{name: getattr(problem, name).to("meta")})
    refused(problem, "weights is on meta", weights=[weight.to("meta") for weight in problem.weights])
    refused(problem, "norm's bias is on meta", norm=Norm(problem.norm.weight, problem.norm.bias.to("meta")))
    _, state = run(chunk_titans, new_problem(new_case(3, CHUNK, rows=2)))
    refused(problem, "the memory state's position is on meta", initial_state=state.to("meta"))
    for name, tensor in state.tensors().items():
        moved = state.with_tensors(state.tensors() | {name: tensor.to("meta")})
        refused(problem, rf"the memory state's {name} is on meta", initial_state=moved)


def test_wrong_boundaries_are_refused(problem):
    one = problem.at([0], list(range(6)))
    refused(problem, "cu_seqlens needs one packed row", cu_seqlens=torch.tensor([0, 6]))
    refused(one, "cu_seqlens needs one packed row", cu_seqlens=torch.tensor([0, 6]), mask=torch.ones(1, 6))
    for bounds in ([], [0], [0.0, 6.0]):
        refused(one, r"cu_seqlens must be \[N \+ 1\] int32 or int64", cu_seqlens=torch.tensor(bounds))
    for bounds in ([0, 5], [1, 6], [0, 4, 3, 6]):
        refused(one, "cu_seqlens must rise from 0 to T = 6", cu_seqlens=torch.tensor(bounds))


def test_a_state_of_another_memory_is_refused(problem, new_case, new_problem, run):
    def state(**changes) -> MemoryState:
        settings = {"length": 3, "chunk_size": CHUNK, "rows": 2, **changes}
        return run(chunk_titans, new_problem(new_case(**settings)))[1]

    match = "the memory state does not fit this call"
    for changes in (
        {"rows": 1},
        {"heads": 1},
        {"head_dim": 6},
        {"depth": 1},
        {"depth": 3},
        {"chunk_size": 8},
        {"momentum": False},
        {"gates": "channel"},
        {"gates": "shared"},
    ):
        refused(problem, match, initial_state=state(**changes))
    single = state().map(lambda x: x.float() if x.is_floating_point() else x)
    refused(problem, match, initial_state=single)
    refused(problem, match, initial_state=state(), log_eta=None)
    refused(problem, "reset needs `weights`", initial_state=state(), weights=None, reset=torch.ones(2, 6))


@pytest.mark.parametrize(
    ("name", "value"), [("chunk_size", 0), ("chunk_size", -1), ("chunk_size", 2.5), ("guard_limit", 0.0)]
)
def test_impossible_settings_are_refused(problem, name, value):
    refused(problem, name, **{name: value})


def test_an_unknown_activation_is_refused(problem):
    refused(problem, "activation", activation="tanh")


@pytest.mark.parametrize("shape", [(0, 5, 2, 4), (2, 0, 2, 4)], ids=["rows", "tokens"])
def test_nothing_gives_nothing(shape):
    q, g = torch.zeros(shape), torch.zeros(shape[:3])
    for operation in [*OPERATIONS, native_titans]:
        y, state = operation(q, q, q, g, g, g, chunk_size=CHUNK, output_final_state=True)
        assert y.shape == shape
        assert state.position.tolist() == [0] * shape[0]

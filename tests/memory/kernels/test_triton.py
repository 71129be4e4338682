"""The Triton form equals the dual form and the definition, in Triton's interpreter, and says so where it cannot run."""

import importlib.util
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from titans.memory import MemoryConfig, NeuralMemory, chunk_titans, reference_titans, triton_titans
from titans.memory.kernels import gpu

pytest.importorskip("triton")
from titans.memory.kernels import gpu_function

pytestmark = pytest.mark.usefixtures("quick_interpreter")

# Length, chunk and the rest: every switch on and off, odd lengths, open chunks before and after.
CASES = {
    "gelu": {"length": 11, "chunk_size": 4, "head_dim": 20},  # hidden 40: two tiles, one of them half empty
    "silu-heads": {"length": 7, "chunk_size": 4, "activation": "silu", "heads": 2, "gates": "shared"},
    "relu-still": {"length": 8, "chunk_size": 4, "activation": "relu", "momentum": False, "norm": False},
    "unguarded": {"length": 7, "chunk_size": 3, "guard_limit": None, "forgetting": False},
    "still-unguarded": {"length": 5, "chunk_size": 4, "momentum": False, "guard_limit": None, "gates": "shared"},
    "after-flags": {"length": 11, "chunk_size": 4, "rows": 2, "before": 6, "flags": True},
    "after": {"length": 3, "chunk_size": 16, "before": 21, "norm": False},
    "token": {"length": 3, "chunk_size": 1, "before": 2},
    "linear": {"length": 11, "chunk_size": 4, "depth": 1, "head_dim": 12, "heads": 2},
    "linear-flags": {"length": 13, "chunk_size": 4, "depth": 1, "rows": 2, "before": 6, "flags": True},
    "linear-still": {"length": 7, "chunk_size": 1, "depth": 1, "momentum": False, "gates": "shared"},
    "linear-unguarded": {"length": 10, "chunk_size": 4, "depth": 1, "guard_limit": None, "before": 3},
    "linear-long": {"length": 70, "chunk_size": 64, "depth": 1},
}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_dual_form(name, new_case, new_problem, answer, equal):
    problem = new_problem(new_case(**{"heads": 1, **CASES[name]}))
    equal(answer(triton_titans, problem), answer(chunk_titans, problem), 1e-10)


@pytest.mark.parametrize("depth", [1, 2])
def test_equals_the_definition(depth, new_case, new_problem, answer, equal):
    problem = new_problem(new_case(10, 4, depth=depth, heads=1, before=3))
    equal(answer(triton_titans, problem), answer(reference_titans, problem), 1e-10)


@pytest.mark.parametrize(("length", "chunk"), [(18, 16), (65, 64)])
def test_heads_of_48_channels_in_single_precision(length, chunk, new_case, new_problem, answer, equal):
    problem = new_problem(new_case(length, chunk, heads=1, head_dim=48))
    weights = (0.1 * torch.randn(1, *dims, dtype=torch.float64) for dims in ((48, 192), (192, 48)))
    problem = replace(problem, weights=tuple(weight.requires_grad_() for weight in weights))
    single = problem.float()
    for x in (single.q, single.k, single.v, single.g, single.log_eta, single.theta, *single.weights, *single.norm):
        x.requires_grad_()
    # Sums of up to 192 float32 products, a few of them after one another: 1e-7 each.
    equal(answer(triton_titans, single), answer(chunk_titans, problem), 1e-5)


@pytest.mark.parametrize("depth", [1, 2])
def test_bfloat16_is_as_close_as_its_products(depth, new_case, new_problem, answer):
    rounded, exact = new_problem(new_case(9, 4, depth=depth, heads=1, head_dim=16)).rounded()
    expected = answer(chunk_titans, exact)
    rough = ("y", "gradient of q", "gradient of k", "gradient of v")
    for name, got in answer(triton_titans, rounded).items():
        want = expected[name]
        assert got.dtype == (torch.bfloat16 if name in rough else want.dtype), name
        # A product's operands are off by up to 2^-9 of their size each, and results of one are operands of the next.
        assert not want.numel() or (got - want).abs().max() <= 2**-5 * want.abs().max().clamp_min(1e-2), name


@pytest.mark.parametrize("depth", [1, 2])
def test_a_guard_that_binds_strongly(depth, new_case, new_problem, answer, equal, run):
    problem = new_problem(new_case(9, 4, depth=depth, heads=1))
    with torch.no_grad():
        problem.theta.mul_(20)
        problem.k.copy_(problem.k[:, :1].expand_as(problem.k))
    equal(answer(triton_titans, problem), answer(chunk_titans, problem), 1e-10)
    free, _ = run(triton_titans, replace(problem, case=replace(problem.case, guard_limit=None)))
    assert (free - run(triton_titans, problem)[0]).abs().max() > 1


class Tried:
    """A kernel as a GPU runs it the first time: to try a setting, after which the tuner restores, and once more."""

    def __init__(self, kernel) -> None:
        self.kernel, self.arg_names = kernel, kernel.arg_names
        self.given: list[str] = []

    def __getitem__(self, grid):
        def launch(**given):
            self.given = list(given)
            copies = {name: given[name].clone() for name in self.kernel.restore_value}
            self.kernel[grid](**given)
            for name, copy in copies.items():
                given[name].copy_(copy)
            self.kernel[grid](**given)

        return launch


@pytest.mark.parametrize("depth", [1, 2])
def test_a_trial_leaves_no_trace_and_what_is_tuned_for_has_one_order(
    depth, new_case, new_problem, answer, equal, monkeypatch
):
    problem = new_problem(new_case(9, 4, depth=depth, rows=2, heads=1, before=3, flags=True))
    kernels = []
    for name in ("forward", "backward"):
        full = f"{'linear' if depth == 1 else 'deep'}_{name}"
        kernels.append(Tried(getattr(gpu_function, full)))
        monkeypatch.setattr(gpu_function, full, kernels[-1])
    equal(answer(triton_titans, problem), answer(chunk_titans, problem), 1e-10)
    for kernel in kernels:  # the types of the tensors, in the order in which they are given, are a part of the key
        assert kernel.given == [name for name in kernel.arg_names if name in kernel.given]


@pytest.mark.parametrize("depth", [1, 2])
def test_any_split_of_a_stream(depth, new_case, new_problem, run, equal):
    problem = new_problem(new_case(11, 4, depth=depth, heads=1))
    with torch.no_grad():
        whole, after = run(triton_titans, problem)
        state, parts = None, []
        for start, stop in ((0, 3), (3, 4), (4, 9), (9, 11)):
            y, state = run(triton_titans, problem.tokens(start, stop, state))
            parts.append(y)
    equal({"y": torch.cat(parts, 1)} | state.tensors(), {"y": whole} | after.tensors(), 1e-12)


def test_a_state_may_lie_in_memory_in_any_order(new_case, new_problem, run, equal):
    problem = new_problem(new_case(6, 8, depth=2, heads=3, rows=2, before=5))
    state = run(chunk_titans, problem)[1]

    def turned(x):
        return x.transpose(1, 2).contiguous().transpose(1, 2)

    with torch.no_grad():
        y, after = run(triton_titans, problem.tokens(0, 6, state))
        same = state.replace(miss=turned(state.miss), pending=turned(state.pending), position=state.position)
        again, ends = run(triton_titans, problem.tokens(0, 6, same))
    equal({"y": again} | ends.tensors(), {"y": y} | after.tensors(), 1e-12)


@pytest.mark.parametrize("depth", [1, 2])
def test_several_documents_in_a_row(depth, new_case, new_problem, answer, equal):
    problem = new_problem(new_case(8, 2, depth=depth, heads=1, before=3))
    problem = replace(problem, reset=torch.tensor([[0, 0, 1, 0, 0, 1, 0, 0]]))
    equal(answer(triton_titans, problem), answer(chunk_titans, problem), 1e-10)


def test_packed_documents(new_case, new_problem, equal):
    problem = new_problem(new_case(9, 4, heads=1))
    gates = (problem.g, problem.log_eta, problem.theta)
    inputs, borders = (problem.q, problem.k, problem.v), torch.tensor([0, 5, 6, 9])
    found, expected = {}, {}
    for operation, answers in ((triton_titans, found), (chunk_titans, expected)):
        y, state = operation(
            *inputs, *gates, problem.weights, problem.norm, chunk_size=4, cu_seqlens=borders, output_final_state=True
        )
        answers |= {"y": y} | state.tensors()
        answers |= {"gradient": torch.autograd.grad(y.square().sum(), problem.k)[0]}
    equal(found, expected, 1e-10)


@pytest.mark.parametrize("depth", [1, 2])
def test_the_future_changes_nothing(depth, new_case, new_problem, run):
    problem = new_problem(new_case(8, 4, depth=depth, heads=1))
    with torch.no_grad():
        before, _ = run(triton_titans, problem)
        for x in (problem.q, problem.k, problem.v, problem.g, problem.log_eta, problem.theta):
            x[:, 5:] = x[:, 5:].roll(1, 1)
        after, _ = run(triton_titans, problem)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.equal(before[:, 5:], after[:, 5:])


def test_the_layer_gives_the_same():
    memory, x = NeuralMemory(16, MemoryConfig(num_heads=1, chunk_size=4, expansion=2)), torch.randn(1, 6, 16)
    y, state = memory(x, backend="triton")
    chunked, after = memory(x, backend="chunked")
    torch.testing.assert_close(y, chunked, rtol=1e-4, atol=1e-5)
    for a, b in zip(state.tensors().values(), after.tensors().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_bfloat16_layer_multiplies_bfloat16(monkeypatch):
    seen = []
    monkeypatch.setattr(gpu, "_precision", lambda call: seen.append(call.given_dtype) or "bf16 emulated")
    memory = NeuralMemory(16, MemoryConfig(num_heads=1, chunk_size=4, expansion=2)).bfloat16()
    y, _ = memory(torch.randn(1, 4, 16).bfloat16(), backend="triton")
    assert seen == [torch.bfloat16]
    assert y.dtype == torch.bfloat16


def test_where_it_cannot_be_used(new_case, new_problem, run, monkeypatch):
    def why(device="cuda", dtype=torch.float32, depth=2, head_dim=64, chunk_size=16, granularity="head"):
        return str(gpu.unsupported(torch.device(device), dtype, depth, head_dim, chunk_size, granularity))

    assert why() == "None"
    assert "depth 1 and 2, not 3" in why(depth=3)
    assert "channel-wise" in why(granularity="channel")
    assert "above 64" in why(chunk_size=65)
    assert "head dimension is 65, above 64" in why(head_dim=65)
    with pytest.raises(ValueError, match="not 3; chunk_titans can"):
        run(triton_titans, new_problem(new_case(4, 4, depth=3)))
    monkeypatch.delenv("TRITON_INTERPRET")
    assert "not on cpu" in why("cpu")
    assert "not in float64" in why(dtype=torch.float64)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "triton is not installed" in why()


def test_importing_titans_does_not_import_triton():
    program = "import sys, titans, titans.memory; assert not any(name.startswith('triton') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)

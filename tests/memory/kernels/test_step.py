"""One token of a layer in C equals the definition: every switch, width and precision, absent rows, new documents."""

import pytest
import torch
from torch import Tensor

from titans.memory import MemoryConfig, MemoryState, NeuralMemory

LENGTH, CHUNK = 19, 4  # more than four chunks
CONFIGS = {
    "default": {},
    "linear": {"depth": 1, "activation": "relu"},
    "deep": {"depth": 3, "activation": "silu"},
    "deepest": {"depth": 4, "expansion": 2},
    "still": {"momentum": False},
    "keeping": {"forgetting": False},
    "unguarded": {"guard": False, "depth": 3},
    "plain": {"convolution": False},
    "one-tap": {"conv_size": 1},
    "steep": {"max_step": 3.0, "guard_limit": 0.5, "momentum": False, "forgetting": False},
    "fresh-gradients": {"chunk_size": 1},
    "long-chunks": {"chunk_size": 8},
    "channel": {"gate_granularity": "channel"},
}


def make_memory(dim: int = 20, dtype: torch.dtype = torch.float64, **changes) -> NeuralMemory:
    """With large steps, so that the guard acts on some tokens and not on others."""
    torch.manual_seed(1)
    memory = NeuralMemory(dim, MemoryConfig(**{"num_heads": 2, "chunk_size": CHUNK, "expansion": 3, **changes}))
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return memory.to(dtype).requires_grad_(False)


def steps(
    memory: NeuralMemory,
    x: Tensor,
    state: MemoryState,
    mask: Tensor | None = None,
    reset: Tensor | None = None,
    keep: bool = True,
) -> Tensor:
    """x [B, T, dim], token by token in place."""
    workspace = memory.workspace(state) if keep else None

    def at(flags: Tensor | None, t: int) -> Tensor | None:
        return None if flags is None else flags[:, t]

    return torch.stack(
        [memory.step_(x[:, t], state, workspace, at(mask, t), at(reset, t)) for t in range(x.shape[1])], 1
    )


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def memory(request) -> NeuralMemory:
    return make_memory(**request.param)


@pytest.mark.parametrize("keep", [True, False], ids=["with-workspace", "without"])
def test_equals_the_definition(memory, keep, equal):
    x = torch.randn(2, LENGTH, 20, dtype=torch.float64)
    y, end = memory(x, backend="reference")
    state = memory.begin(x).own()
    places = [tensor.data_ptr() for tensor in state.tensors().values()]
    found = steps(memory, x, state, keep=keep)
    equal({"y": found, **state.tensors()}, {"y": y, **end.tensors()}, 1e-10)
    assert [tensor.data_ptr() for tensor in state.tensors().values()] == places


def test_absent_rows_and_new_documents(memory, equal):
    x = torch.randn(3, LENGTH, 20, dtype=torch.float64)
    mask, reset = torch.rand(3, LENGTH) < 0.7, torch.rand(3, LENGTH) < 0.15
    y, end = memory(x, None, mask, reset, backend="reference")
    state = memory.begin(x).own()
    found = steps(memory, x, state, mask, reset)
    equal({"y": found, **state.tensors()}, {"y": y, **end.tensors()}, 1e-10)


def test_a_new_document_leaves_nothing_of_an_open_chunk(memory, equal):
    x = torch.randn(2, CHUNK, 20, dtype=torch.float64)
    first, second = memory.begin(x).own(), memory.begin(x).own()
    reset = torch.zeros(2, CHUNK, dtype=torch.bool)
    reset[:, -1] = True
    y = steps(memory, x, first, reset=reset)[:, -1:]
    equal({"y": y, **first.tensors()}, {"y": steps(memory, x[:, -1:], second), **second.tensors()}, 1e-12)


@pytest.mark.parametrize("head_dim", [3, 8, 20, 37])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_any_width(head_dim, depth, equal):
    memory = make_memory(2 * head_dim, depth=depth)
    x = torch.randn(2, LENGTH, 2 * head_dim, dtype=torch.float64)
    y, end = memory(x, backend="chunked")
    state = memory.begin(x).own()
    equal({"y": steps(memory, x, state), **state.tensors()}, {"y": y, **end.tensors()}, 1e-10)


@pytest.mark.parametrize("activation", ["gelu", "silu", "relu"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_single_precision_is_close_to_double(depth, activation, equal):
    changes = {"depth": depth, "activation": activation, "chunk_size": 16}
    x = torch.randn(2, 50, 64)
    expected, end = make_memory(64, **changes)(x.double(), backend="chunked")
    memory = make_memory(64, torch.float32, **changes)
    state = memory.begin(x).own()
    equal({"y": steps(memory, x, state), **state.tensors()}, {"y": expected, **end.tensors()}, 1e-4)


def test_the_guard_acts_in_these_problems():
    x = torch.randn(2, LENGTH, 20, dtype=torch.float64)
    guarded, free = make_memory(), make_memory(guard=False)
    assert (steps(guarded, x, guarded.begin(x).own()) - steps(free, x, free.begin(x).own())).abs().max() > 1e-3


def test_a_workspace_goes_on_after_other_calls(equal):
    memory, x = make_memory(), torch.randn(2, 30, 20, dtype=torch.float64)
    expected, _ = memory(x, backend="reference")
    state = memory.begin(x).own()
    workspace = memory.workspace(state)
    for t in range(30):
        if t in (6, 7):  # read by another call, whose state the workspace knows nothing of
            state.copy_(memory(x[:, t : t + 1], state)[1])
        else:
            equal({"y": memory.step_(x[:, t], state, workspace)}, {"y": expected[:, t]}, 1e-10)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_changes_nothing(threads, monkeypatch):
    monkeypatch.setattr("titans.memory.kernels.step._WORTH_SHARING", 0)
    memory, x = make_memory(), torch.randn(3, LENGTH, 20, dtype=torch.float64)
    before = torch.get_num_threads()
    expected = steps(memory, x, memory.begin(x).own())
    try:
        torch.set_num_threads(threads)
        found = steps(memory, x, memory.begin(x).own())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, expected)


def test_low_precision_parameters_keep_a_precise_state():
    memory, x = make_memory(dtype=torch.bfloat16), torch.randn(2, 9, 20).bfloat16()
    state = memory.begin(x).own()
    y = steps(memory, x, state)
    assert y.dtype == torch.bfloat16
    assert state.weights[0].dtype == torch.float32
    torch.testing.assert_close(y, memory(x)[0], rtol=0.05, atol=0.05)


def test_what_cannot_be_stepped_is_named():
    memory, x = make_memory(), torch.randn(2, 20, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"x must be \[B, dim = 20\], got \(2, 1, 20\)"):
        memory.step_(x.unsqueeze(1), memory.begin(x).own())
    with pytest.raises(ValueError, match=r"not contiguous: pass state.own\(\)"):
        memory.step_(x, memory.begin(x))
    with pytest.raises(ValueError, match="the workspace belongs to another state"):
        memory.step_(x, memory.begin(x).own(), memory.workspace(memory.begin(x).own()))
    with pytest.raises(ValueError, match="the state has 3 rows, x has 2"):
        memory.step_(x, memory.begin(torch.zeros(3, 20)).own())
    with pytest.raises(ValueError, match=r"x is torch\.float32 and the memory torch\.float64"):
        memory.step_(x.float(), memory.begin(x).own())


@pytest.mark.parametrize("name", ["mask", "reset"])
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1)])
def test_flags_are_one_for_each_row(name, shape):
    memory, x = make_memory(), torch.randn(2, 20, dtype=torch.float64)
    with pytest.raises(ValueError, match=rf"{name} must be \[B\] = \(2,\), got"):
        memory.step_(x, memory.begin(x).own(), **{name: torch.ones(shape, dtype=torch.bool)})

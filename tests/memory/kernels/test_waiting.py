"""No accelerator is waited for: nothing looks at values, and where they are not known the results are the same.

Tensors on torch's meta device have no values, so that every look at one is an error.
"""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from titans.memory import MemoryConfig, NeuralMemory, chunk_titans, native_titans, triton_titans
from titans.memory.kernels import gpu
from titans.memory.kernels.native import unsupported
from titans.models import TitansConfig, TitansLM
from titans.models.segments import Stream

CASES = {
    "aligned": {"length": 8},
    "odd": {"length": 7},
    "after": {"length": 9, "before": 6},
    "after-whole": {"length": 5, "before": 8, "momentum": False},
    "after-flags": {"length": 11, "before": 6, "rows": 2, "flags": True},
    "linear": {"length": 6, "before": 3, "depth": 1},
}


@pytest.fixture
def unasked(monkeypatch):
    def forbid() -> None:
        monkeypatch.setattr("titans.memory.layout.may_ask", lambda x: False)
        monkeypatch.setattr("titans.memory.layer.may_ask", lambda x: False)

    return forbid


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("operation", [chunk_titans, native_titans, triton_titans], ids=lambda x: x.__name__)
def test_what_is_not_asked_changes_nothing(
    operation, name, new_case, new_problem, answer, equal, unasked, quick_interpreter
):
    problem = new_problem(new_case(chunk_size=4, heads=1, **CASES[name]))
    if operation is native_titans and unsupported(problem.q.device, 4, "head"):
        pytest.skip("no compiler")
    if operation is triton_titans and gpu.unsupported(problem.q.device, problem.q.dtype, 2, 4, 4, "head"):
        pytest.skip("no triton")
    expected = answer(chunk_titans, problem)
    unasked()
    equal(answer(operation, problem), expected, 1e-10)


@pytest.fixture
def meta_device(monkeypatch) -> str:
    """torch.autocast does not know the device."""
    monkeypatch.setattr(torch, "autocast", lambda **settings: nullcontext())
    return "meta"


def config(**changes) -> MemoryConfig:
    return replace(MemoryConfig(num_heads=2, chunk_size=4, conv_size=3), **changes)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_memory_without_values(meta_device, depth, masked):
    memory = NeuralMemory(8, config(depth=depth)).to(meta_device)
    state = None
    for length in (8, 3, 1, 6):
        x = torch.empty(2, length, 8, device=meta_device, requires_grad=True)
        mask = torch.empty(2, length, dtype=torch.bool, device=meta_device) if masked else None
        y, state = memory(x, state, mask)
        assert y.shape == x.shape
        y.sum().backward()
        state = state.detach()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("variant", ["mac", "mag", "mal", "lmm", "attention"])
def test_blocks_without_values(meta_device, variant, masked):
    settings = TitansConfig(
        vocab_size=16, dim=8, num_layers=1, num_heads=2, hidden_size=16, window_size=8, segment_size=8,
        variant=variant, memory=config(),
    )  # fmt: skip
    model = TitansLM(settings).to(meta_device)
    block, state = model.blocks[0], model.begin(2).blocks[0]
    for length in (16, 3, 1, 6):
        x = torch.empty(2, length, 8, device=meta_device, requires_grad=True)
        mask = torch.empty(2, length, dtype=torch.bool, device=meta_device) if masked else None
        start = torch.empty(2, dtype=torch.int64, device=meta_device)
        position = torch.empty(2, length, dtype=torch.int64, device=meta_device)
        y, state = block(x, state, Stream(start, position, mask, None))
        assert y.shape == x.shape
        y.sum().backward()
        state = state.detach()


def test_positions_are_known_as_long_as_they_are_plain():
    memory = NeuralMemory(8, config())
    x = torch.randn(2, 6, 8)
    _, state = memory(x)
    assert state.known_position == 6
    assert memory(x, state.detach())[1].known_position == 12
    everywhere = torch.ones(2, 6)
    assert memory(x, state, mask=everywhere)[1].known_position is None
    assert memory(x, state, reset=everywhere)[1].known_position is None
    assert memory(x[:, :1], state)[1].known_position is None
    assert state.own().known_position is None
    assert state.replace(position=state.position + 1).known_position is None
    assert state.with_tensors(state.tensors()).known_position is None
    assert state.select(torch.tensor([0])).known_position is None


def test_a_state_whose_position_is_known_is_not_changed_in_place():
    memory = NeuralMemory(8, config())
    _, state = memory(torch.randn(2, 8, 8))
    with pytest.raises(ValueError, match=r"pass state\.own\(\)"):
        memory.step_(torch.randn(2, 8), state)
    memory.step_(torch.randn(2, 8), state.own())

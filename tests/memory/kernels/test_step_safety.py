"""What a state in C's hands must not be: another memory's, changed behind autograd's back, or behind a workspace's."""

import dataclasses

import pytest
import torch

from titans.memory import MemoryConfig, NeuralMemory


def other_memories():
    return [
        MemoryConfig(num_heads=4),
        MemoryConfig(num_heads=2, depth=3),
        MemoryConfig(num_heads=2, expansion=2),
        MemoryConfig(num_heads=2, momentum=False),
        MemoryConfig(num_heads=2, chunk_size=8),
        MemoryConfig(num_heads=2, conv_size=3),
    ]


@pytest.mark.parametrize("config", other_memories())
def test_another_memorys_state_is_refused(config):
    """The kernel would write beyond its tensors."""
    mine, other = NeuralMemory(32, MemoryConfig(num_heads=2)), NeuralMemory(32, config)
    state = other(torch.randn(1, 20, 32))[1].own()
    with pytest.raises(ValueError, match=r"does not fit|another memory"):
        mine.step_(torch.randn(1, 32), state)
    with pytest.raises(ValueError, match="another memory"):
        mine.step_(torch.randn(1, 32), state, other.workspace(state))


@pytest.mark.parametrize("config", other_memories()[:4])
def test_another_memorys_state_is_refused_in_a_graph(config):
    mine, other = NeuralMemory(32, MemoryConfig(num_heads=2)), NeuralMemory(32, config)
    state = other(torch.randn(1, 20, 32))[1].detach()
    with torch.no_grad(), pytest.raises(ValueError, match="does not fit"):
        torch.compile(mine, backend="eager")(torch.randn(1, 40, 32), state)


def test_a_step_between_forward_and_backward_is_seen_by_autograd():
    memory = NeuralMemory(32, MemoryConfig(num_heads=2, chunk_size=4))
    state = memory(torch.randn(1, 6, 32))[1].own()
    y, _ = memory(torch.randn(1, 12, 32), state)
    memory.step_(torch.randn(1, 32), state)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.square().sum().backward()


def test_a_workspace_sees_that_its_state_was_changed():
    """Another session in its place, at the same position of a chunk."""
    memory = NeuralMemory(32, MemoryConfig(num_heads=2, chunk_size=4))
    x = torch.randn(2, 1, 7, 32)
    state, other = (memory(one[:, :6])[1].own() for one in x)
    workspace = memory.workspace(state)
    memory.step_(x[0, :, 6], state, workspace)
    state.copy_(memory(x[1])[1])
    token = torch.randn(1, 32)
    memory.step_(x[1, :, 6], other)
    expected = memory.step_(token, other)
    torch.testing.assert_close(memory.step_(token, state, workspace), expected, rtol=0, atol=1e-6)


def test_steps_in_inference_mode():
    """Whose tensors count no changes."""
    memory = NeuralMemory(32, MemoryConfig(num_heads=2, chunk_size=4))
    x = torch.randn(1, 12, 32)
    expected, _ = memory(x)
    with torch.inference_mode():
        state = memory(x[:, :6])[1].own()
        workspace = memory.workspace(state)
        y = torch.stack([memory.step_(x[:, t], state, workspace) for t in range(6, 12)], 1)
    torch.testing.assert_close(y, expected[:, 6:], rtol=0, atol=1e-5)


def test_what_a_call_returns_is_not_its_own():
    memory, x = NeuralMemory(32, MemoryConfig(num_heads=2, chunk_size=4)), torch.randn(1, 6, 32)
    _, after = memory(x[:, :2], memory.begin(x).own())
    with pytest.raises(ValueError, match=r"pass state\.own\(\)"):
        memory.step_(x[:, 2], after)


@pytest.mark.parametrize("change", [lambda tail: tail[:1].clone(), lambda tail: tail.half()], ids=["rows", "precision"])
def test_a_convolutions_tail_that_does_not_fit_is_refused(change):
    memory, x = NeuralMemory(32, MemoryConfig(num_heads=2, chunk_size=4)), torch.randn(3, 6, 32)
    state = memory(x)[1].own()
    wrong = dataclasses.replace(state, tail=change(state.tail))
    for use in (memory.workspace, lambda state: memory.step_(x[:, 0], state), lambda state: memory(x, state)):
        with torch.no_grad(), pytest.raises(ValueError, match="its convolution tail has"):
            use(wrong)


@pytest.mark.parametrize("backend", ["auto", "chunked", "recurrent"])
@pytest.mark.parametrize("tokens", [1, 2])
def test_what_a_call_returns_is_not_changed_by_steps_of_what_it_was_given(backend, tokens):
    memory, x = NeuralMemory(32, MemoryConfig(num_heads=2, chunk_size=8)), torch.randn(1, 40, 32)
    with torch.no_grad():
        given = memory(x[:, :10])[1].own()
        _, after = memory(x[:, 10 : 10 + tokens], given, backend=backend)
        before = {name: tensor.clone() for name, tensor in after.tensors().items()}
        for t in range(10, 40):
            memory.step_(x[:, t], given)
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.tensors().items())


def test_a_state_on_another_device_is_refused():
    memory, x = NeuralMemory(8, MemoryConfig(num_heads=2, chunk_size=4)), torch.randn(2, 8)
    away = memory.begin(x).own().to("meta")
    with torch.no_grad(), pytest.raises(ValueError, match="the state is on meta, the rest of the call on cpu"):
        memory.step_(x, away)
    with pytest.raises(ValueError, match="the memory state's position is on meta"):
        memory.workspace(away)

"""The state is a plain value: it can be moved, picked from, saved and refused."""

import dataclasses

import pytest
import torch

from titans.errors import TitansError
from titans.files import save_tensors
from titans.memory import MemoryConfig, MemoryState, NeuralMemory


def state_of(config: MemoryConfig | None = None, tokens: int = 21, rows: int = 3) -> MemoryState:
    memory = NeuralMemory(16, config or MemoryConfig(num_heads=2))
    return memory(torch.randn(rows, tokens, 16))[1]


def assert_same(a: MemoryState, b: MemoryState) -> None:
    assert a.tensors().keys() == b.tensors().keys()
    for name, tensor in a.tensors().items():
        assert torch.equal(tensor, b.tensors()[name]), name
        assert tensor.dtype == b.tensors()[name].dtype


@pytest.mark.parametrize(
    "config",
    [
        MemoryConfig(num_heads=2),
        MemoryConfig(num_heads=2, momentum=False, convolution=False, forgetting=False),
        MemoryConfig(num_heads=4, depth=4, gate_granularity="channel", chunk_size=5),
        MemoryConfig(num_heads=2, depth=1, conv_size=1),
    ],
)
def test_a_saved_state_comes_back_bit_for_bit(config, tmp_path):
    state = state_of(config)
    state.save(tmp_path / "state.safetensors")
    loaded = MemoryState.load(tmp_path / "state.safetensors")
    assert_same(loaded, state)
    assert loaded.chunk_size == config.chunk_size


def test_a_fresh_state_can_be_saved(tmp_path):
    # Its tensors are expanded parameters, which safetensors would refuse.
    memory = NeuralMemory(16, MemoryConfig(num_heads=2))
    fresh = memory.begin(torch.zeros(2, 1, 16))
    fresh.save(tmp_path / "state.safetensors")
    assert_same(MemoryState.load(tmp_path / "state.safetensors"), fresh)


def test_a_spoilt_state_is_refused(tmp_path):
    state_of().map(lambda x: x * float("nan") if x.is_floating_point() else x).save(tmp_path / "state.safetensors")
    with pytest.raises(TitansError, match=r"state\.safetensors is spoilt: .* holds NaN"):
        MemoryState.load(tmp_path / "state.safetensors")


@pytest.mark.parametrize("position", [-1, -(2**40), 2**62])
def test_a_position_that_is_no_place_in_a_text_is_refused(tmp_path, position):
    state = state_of()
    state.replace(position=torch.tensor([3, position, 3])).save(tmp_path / "state.safetensors")
    with pytest.raises(TitansError, match=r"state\.safetensors is damaged: position is \[3, .*; copy or make it again"):
        MemoryState.load(tmp_path / "state.safetensors")


def test_a_state_in_an_older_layout_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("titans.memory.state.LAYOUT", 3)
    state_of().save(tmp_path / "state.safetensors")
    monkeypatch.undo()
    with pytest.raises(TitansError, match=r"state\.safetensors was written by another version of titans"):
        MemoryState.load(tmp_path / "state.safetensors")


def test_saving_over_a_state_leaves_no_other_file(tmp_path):
    state = state_of()
    for _ in range(2):
        state.save(tmp_path / "state.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


def test_select_picks_rows():
    state = state_of()
    picked = state.select(torch.tensor([2, 0, 0]))
    for name, tensor in state.tensors().items():
        assert torch.equal(picked.tensors()[name], tensor[[2, 0, 0]]), name


def test_detach_cuts_the_graph_and_nothing_else():
    state = state_of()
    assert state.weights[0].requires_grad
    assert not any(tensor.requires_grad for tensor in state.detach().tensors().values())
    assert_same(state.detach(), state)
    assert_same(state.to("cpu"), state)


def test_it_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        state_of().position = torch.zeros(3)  # pyright: ignore[reportAttributeAccessIssue]


def test_tensors_can_be_put_back_by_name():
    state = state_of()
    doubled = {name: 2 * tensor for name, tensor in state.tensors().items()}
    assert torch.equal(state.with_tensors(doubled).errors[1], 2 * state.errors[1])
    with pytest.raises(TitansError, match="another model: it differs in miss"):
        state.with_tensors({name: tensor for name, tensor in doubled.items() if name != "miss"})
    with pytest.raises(TitansError, match=r"another model: weights\.0 is"):
        state.with_tensors({**doubled, "weights.0": torch.zeros(3, 2, 8, 9)})
    with pytest.raises(TitansError, match="another model: position is"):
        state.with_tensors({**doubled, "position": torch.zeros(3)})
    with pytest.raises(TitansError, match="of different numbers of rows"):
        state.with_tensors({**doubled, "tail": doubled["tail"][:2]})


def test_values_are_taken_over_in_place_by_a_state_of_own_only():
    memory, x = NeuralMemory(16, MemoryConfig(num_heads=2, chunk_size=4, momentum=False)), torch.randn(1, 9, 16)
    with torch.no_grad():
        other = memory(x)[1]
        parameters = [weight.clone() for weight in memory.initial_weights]
        changed = memory(x[:, :1])[1].own()
        changed = changed.replace(weights=other.weights)  # which others have
        for given in (memory(x[:, :1])[1], memory(x[:, :1])[1].detach(), changed):
            with pytest.raises(ValueError, match=r"pass state\.own\(\)"):
                given.copy_(other)
        mine = memory(x[:, :1])[1].own()
        mine.copy_(other)
        assert_same(mine, other)
        torch.testing.assert_close(memory(x, mine)[0], memory(x, other)[0])
    assert all(torch.equal(a, b) for a, b in zip(parameters, memory.initial_weights, strict=True))


def test_files_that_are_no_memory_state(tmp_path):
    path = tmp_path / "state.safetensors"
    with pytest.raises(TitansError, match=r"state\.safetensors does not exist"):
        MemoryState.load(path)
    state_of().save(path)
    whole = path.read_bytes()
    for size in (0, 4, 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(TitansError, match="is damaged, truncated or of another format"):
            MemoryState.load(path)
    path.write_bytes(b"not a tensor in sight" * 10)
    with pytest.raises(TitansError, match="is damaged, truncated or of another format"):
        MemoryState.load(path)
    torch.save(torch.zeros(3), path)
    with pytest.raises(TitansError, match="is damaged, truncated or of another format"):
        MemoryState.load(path)
    save_tensors(path, "model state", {"x": torch.zeros(1)}, {})
    with pytest.raises(TitansError, match="holds a model state, not a memory state"):
        MemoryState.load(path)
    with pytest.raises(TitansError, match="is a folder"):
        MemoryState.load(tmp_path)


def test_a_memory_state_that_lacks_a_tensor(tmp_path):
    path = tmp_path / "state.safetensors"
    tensors = state_of().tensors()
    save_tensors(path, "memory state", {name: x for name, x in tensors.items() if name != "miss"}, {})
    with pytest.raises(TitansError, match=r"state\.safetensors"):
        MemoryState.load(path)


def test_a_detached_state_is_apart_from_the_parameters() -> None:
    memory = NeuralMemory(16, MemoryConfig(num_heads=2))
    state = memory.begin(torch.zeros(1, 16)).detach()
    before = [weight.clone() for weight in state.weights]
    with torch.no_grad():
        for weight in memory.initial_weights:
            weight.add_(1)
    assert all(map(torch.equal, state.weights, before))

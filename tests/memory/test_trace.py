"""The trace against the reference, which is spied on: its autograd gradients and its guard, token by token."""

import pytest
import torch
from torch import Tensor

from titans.memory import MemoryConfig, MemoryState, NeuralMemory, reference
from titans.memory.trace import MemoryTrace, trace, watch

DIM, CHUNK = 8, 4
CONFIGS = {
    "linear": MemoryConfig(num_heads=2, chunk_size=CHUNK, depth=1, max_step=2.0),
    "default": MemoryConfig(num_heads=2, chunk_size=CHUNK, expansion=2),
    "deep": MemoryConfig(num_heads=1, chunk_size=CHUNK, depth=3, expansion=2, activation="relu"),
    "channel": MemoryConfig(num_heads=2, chunk_size=CHUNK, expansion=2, gate_granularity="channel"),
    "no-momentum": MemoryConfig(num_heads=2, chunk_size=CHUNK, expansion=2, momentum=False),
    "no-forgetting": MemoryConfig(num_heads=2, chunk_size=CHUNK, expansion=2, forgetting=False),
    "no-guard": MemoryConfig(num_heads=2, chunk_size=CHUNK, expansion=2, guard=False),
    "no-convolution": MemoryConfig(num_heads=2, chunk_size=CHUNK, expansion=2, convolution=False),
    "single-tokens": MemoryConfig(num_heads=2, chunk_size=1, depth=1),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def new_memory(config: MemoryConfig) -> NeuralMemory:
    memory = NeuralMemory(DIM, config).double()
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return memory.requires_grad_(False)


def tokens(length: int, rows: int = 1) -> Tensor:
    return torch.randn(rows, length, DIM, dtype=torch.float64)


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch):
    """What the reference does with the tokens of a single row: norms of its gradients [T, H, L], its divisors [T, H]
    (1 without a guard), and the state after the last token."""

    def run(memory: NeuralMemory, x: Tensor, state: MemoryState | None = None) -> tuple[Tensor, Tensor, MemoryState]:
        norms, divisors = [], []
        gradients, advance = reference._gradients, reference._advance

        def spy_on_gradients(*arguments) -> list[Tensor]:
            found = gradients(*arguments)
            norms.append(torch.stack([gradient.flatten(1).norm(dim=1) for gradient in found], -1))
            return found

        def spy_on_advance(call, chunk, *rest) -> None:
            advance(call, chunk, *rest)
            divisors.append(chunk.divisor[:, 0, 0])

        with monkeypatch.context() as patch:
            patch.setattr(reference, "_gradients", spy_on_gradients)
            patch.setattr(reference, "_advance", spy_on_advance)
            _, after = memory(x, state, backend="reference")
        length = x.shape[1]  # the tokens of the open chunk are advanced again, without gradients
        return torch.stack(norms), torch.stack(divisors[-length:]), after

    return run


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def assert_same_trace(found: MemoryTrace, expected: MemoryTrace) -> None:
    for name, values in expected.tensors().items():
        assert_same(found.tensors()[name], values)


@every_config
@pytest.mark.parametrize("before", [0, 6])
def test_surprise_is_the_norm_of_the_references_gradient(config, before, spied):
    memory, x = new_memory(config), tokens(19)
    state = memory(tokens(before))[1] if before else None
    norms, divisors, after = spied(memory, x, state)
    found, end = trace(memory, x, state)
    assert_same(found.surprise[0], norms)
    assert_same(found.step[0], found.theta[0] / divisors.unsqueeze(-1))
    assert_same(found.written, found.step * found.surprise)
    for name, tensor in after.tensors().items():
        assert_same(end.tensors()[name], tensor)


def test_the_guard_shrinks_some_steps_and_not_all(spied):
    _, divisors, _ = spied(new_memory(CONFIGS["default"]), tokens(19))
    assert 0 < (divisors > 1).sum() < divisors.numel()


@every_config
def test_gates_are_those_of_the_layer(config):
    memory, x = new_memory(config), tokens(11)
    found, _ = trace(memory, x)
    g, log_eta, theta = memory.gates(x)
    assert_same(found.theta, theta)
    assert_same(found.eta, torch.zeros_like(theta) if log_eta is None else log_eta.exp())
    alpha = 1 - g.exp()
    if config.gate_granularity == "channel":
        first, second = alpha.split([4, 8], -1)
        alpha = torch.stack([first.mean(-1), second.mean(-1)], -1)
    assert_same(found.alpha, alpha)


def test_written_is_how_far_the_weights_move():
    config = MemoryConfig(num_heads=2, chunk_size=1, expansion=2, momentum=False)
    memory, x = new_memory(config), tokens(9)
    found, _ = trace(memory, x)
    state = memory.begin(x)
    for t in range(9):
        before = state.weights
        _, state = memory(x[:, t : t + 1], state)
        for layer, (old, new) in enumerate(zip(before, state.weights, strict=True)):
            keep = 1 - found.alpha[:, t, :, layer, None, None]
            assert_same((new - keep * old).flatten(2).norm(dim=-1), found.written[:, t, :, layer])


@every_config
@pytest.mark.parametrize("steps", [[1] * 19, [5, 5, 5, 4], [3, 1, 4, 11], [18, 1]])
def test_any_split_is_one_call(config, steps):
    memory, x = new_memory(config), tokens(19, rows=2)
    whole, end = trace(memory, x)
    state, pieces = None, []
    for piece in x.split(steps, 1):
        found, state = trace(memory, piece, state)
        pieces.append(found)
    for name, values in whole.tensors().items():
        assert_same(torch.cat([piece.tensors()[name] for piece in pieces], 1), values)
    for name, tensor in end.tensors().items():
        assert_same(state.tensors()[name], tensor)


@every_config
def test_absent_tokens_are_absent_and_documents_are_alone(config):
    memory, x = new_memory(config), tokens(30, rows=3)
    mask, reset = torch.rand(3, 30) < 0.7, torch.rand(3, 30) < 0.15
    state = memory(tokens(6, rows=3))[1]
    found, end = trace(memory, x, state, mask, reset)
    _, after = memory(x, state, mask, reset)
    for name, tensor in after.tensors().items():
        assert_same(end.tensors()[name], tensor)
    assert (found.surprise[~mask] == 0).all()
    for row in range(3):
        documents: list[list[int]] = [[]]
        for t in mask[row].nonzero().flatten().tolist():
            if reset[row, t]:
                documents.append([])
            documents[-1].append(t)
        for number, document in enumerate(documents):
            if document:
                own = state.select(torch.tensor([row])) if number == 0 else None
                alone, _ = trace(memory, x[row : row + 1, document], own)
                assert_same_trace(found.map(lambda field, r=row, d=document: field[r : r + 1, d]), alone)


def test_documents_that_fill_their_chunks_begin_anew():
    memory, x = new_memory(CONFIGS["default"]), tokens(2 * CHUNK)
    reset = torch.arange(2 * CHUNK).unsqueeze(0) == CHUNK
    found, _ = trace(memory, x, reset=reset)
    alone, _ = trace(memory, x[:, CHUNK:])
    assert_same_trace(found.map(lambda field: field[:, CHUNK:]), alone)


def test_by_head_takes_norms_over_layers_and_means_of_gates():
    found, _ = trace(new_memory(CONFIGS["default"]), tokens(5))
    heads = found.by_head()
    assert_same(heads.surprise, found.surprise.square().sum(-1).sqrt())
    assert_same(heads.written, found.written.square().sum(-1).sqrt())
    for name in ("alpha", "eta", "theta", "step"):
        both = getattr(found, name)
        assert_same(getattr(heads, name), (both[..., 0] + both[..., 1]) / 2)


def test_a_watched_memory_does_what_it_always_does_and_is_left_as_it_was():
    memory, x = new_memory(CONFIGS["default"]), tokens(19, rows=2)
    mask = torch.rand(2, 19) < 0.7
    expected, end = memory(x, mask=mask)
    with watch(memory) as watched:
        first, state = memory(x[:, :7], mask=mask[:, :7])
        second, state = memory(x[:, 7:], state, mask=mask[:, 7:])
    assert_same(torch.cat([first, second], 1), expected)
    for name, tensor in end.tensors().items():
        assert_same(state.tensors()[name], tensor)
    whole, _ = trace(memory, x, mask=mask)
    for row in range(2):
        assert_same_trace(watched.row(row), whole.map(lambda field, r=row: field[r][mask[r]]))
    assert "absorb" not in vars(memory)
    memory(x)
    assert len(watched.calls) == 2


def test_a_memory_is_no_longer_watched_after_an_error():
    memory = new_memory(CONFIGS["default"])
    with pytest.raises(RuntimeError, match="stop"), watch(memory):
        raise RuntimeError("stop")
    assert "absorb" not in vars(memory)

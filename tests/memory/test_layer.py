"""The layer: its three forms agree, streams are exact, rows and documents are separate, everything is trained."""

import pytest
import torch
from torch import Tensor

from titans.memory import MemoryConfig, MemoryState, NeuralMemory

DIM, CHUNK = 8, 4
CONFIGS = {
    "default": MemoryConfig(num_heads=2, chunk_size=CHUNK, expansion=2),
    "linear": MemoryConfig(num_heads=1, chunk_size=CHUNK, depth=1, max_step=2.0, guard_limit=1.9),
    "deep": MemoryConfig(num_heads=2, chunk_size=CHUNK, depth=4, expansion=1, activation="relu"),
    "channel": MemoryConfig(num_heads=2, chunk_size=CHUNK, depth=3, expansion=2, gate_granularity="channel"),
    "channel-linear": MemoryConfig(num_heads=4, chunk_size=CHUNK, depth=1, gate_granularity="channel"),
    "no-momentum": MemoryConfig(num_heads=2, chunk_size=CHUNK, expansion=2, momentum=False, activation="silu"),
    "no-forgetting": MemoryConfig(num_heads=2, chunk_size=CHUNK, expansion=2, forgetting=False),
    "no-convolution": MemoryConfig(num_heads=2, chunk_size=CHUNK, expansion=2, convolution=False),
    "no-guard": MemoryConfig(num_heads=2, chunk_size=CHUNK, expansion=2, guard=False),
    "bare": MemoryConfig(
        num_heads=4, chunk_size=1, depth=1, momentum=False, forgetting=False, convolution=False, guard=False
    ),
    "reflecting": MemoryConfig(
        num_heads=2, chunk_size=1, depth=1, max_step=3.0, guard_limit=1.9999, momentum=False, forgetting=False
    ),
    "wider": MemoryConfig(num_heads=3, head_dim=5, chunk_size=CHUNK, expansion=2),
    "narrower-linear": MemoryConfig(num_heads=1, head_dim=3, chunk_size=CHUNK, depth=1),
    "one-tap": MemoryConfig(num_heads=1, chunk_size=7, expansion=2, conv_size=1),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def new_memory(config: MemoryConfig) -> NeuralMemory:
    """In double precision, with weights far enough from zero for every part to matter."""
    memory = NeuralMemory(DIM, config).double()
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return memory


def tokens(length: int = 30, rows: int = 2) -> Tensor:
    return torch.randn(rows, length, DIM, dtype=torch.float64)


def assert_same(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@every_config
@pytest.mark.parametrize("backend", ["chunked", "recurrent"])
@pytest.mark.parametrize("with_flags", [False, True])
def test_every_backend_is_the_reference(config, backend, with_flags):
    memory, x = new_memory(config), tokens(15).requires_grad_()
    flags = {"mask": torch.rand(2, 15) < 0.7, "reset": torch.rand(2, 15) < 0.1} if with_flags else {}
    results = []
    for form in ("reference", backend):
        y, state = memory(x, backend=form, **flags)
        leaves = {"x": x, **dict(memory.named_parameters())}
        mixture = (y * torch.arange(y.numel()).sin().view(y.shape)).sum() + sum(w.square().sum() for w in state.weights)
        gradients = torch.autograd.grad(mixture, list(leaves.values()), allow_unused=True)
        results.append((y, state.tensors(), dict(zip(leaves, gradients, strict=True))))
    (y, state, gradients), (found, found_state, found_gradients) = results
    assert_same(found, y)
    for name in state:
        assert_same(found_state[name], state[name])
    for name, expected in gradients.items():
        assert (expected is None) == (found_gradients[name] is None), name
        if expected is not None:
            torch.testing.assert_close(found_gradients[name], expected, rtol=1e-8, atol=1e-10)


@every_config
def test_any_split_is_one_call_even_through_files(config, tmp_path):
    memory, x = new_memory(config), tokens()
    whole, end = memory(x)
    splits = [[1] * 30, [5] * 6, [CHUNK - 1] * 10, [CHUNK, CHUNK + 1, 2, 19], [29, 1]]
    for steps in splits:
        state, pieces = None, []
        for piece in x.split(steps, 1):
            y, state = memory(piece, state)
            state.save(tmp_path / "state")
            state = MemoryState.load(tmp_path / "state")
            pieces.append(y)
        assert_same(torch.cat(pieces, 1), whole)
        for name, tensor in end.tensors().items():
            assert_same(state.tensors()[name], tensor)


@every_config
def test_splits_with_absent_tokens_and_documents(config):
    memory, x = new_memory(config), tokens(30, rows=3)
    mask, reset = torch.rand(3, 30) < 0.7, torch.rand(3, 30) < 0.1
    whole, end = memory(x, mask=mask, reset=reset)
    state, pieces, t = None, [], 0
    for step in (1, 5, CHUNK - 1, CHUNK, CHUNK + 1, 1, 1, 10):
        piece = slice(t, t + step)
        y, state = memory(x[:, piece], state, mask[:, piece], reset[:, piece])
        pieces.append(y)
        t += step
    assert t == 30
    assert_same(torch.cat(pieces, 1), whole)
    for name, tensor in end.tensors().items():
        assert_same(state.tensors()[name], tensor)


@every_config
def test_absent_tokens_are_absent_and_documents_are_alone(config):
    memory, x = new_memory(config), tokens(30, rows=2)
    mask, reset = torch.rand(2, 30) < 0.7, torch.rand(2, 30) < 0.15
    y, _ = memory(x, mask=mask, reset=reset)
    assert (y[~mask] == 0).all()
    for row in range(2):
        documents: list[list[int]] = [[]]
        for t in mask[row].nonzero().flatten().tolist():
            if reset[row, t]:
                documents.append([])
            documents[-1].append(t)
        for document in filter(None, documents):
            alone, _ = memory(x[row : row + 1, document])
            assert_same(y[row, document], alone[0])


def test_left_padding_is_no_padding():
    memory, x = new_memory(CONFIGS["default"]), tokens(13, rows=1)
    padded = torch.cat([torch.randn(1, 6, DIM, dtype=torch.float64), x], 1)
    mask = torch.arange(19).unsqueeze(0) >= 6
    y, state = memory(padded, mask=mask)
    expected, end = memory(x)
    assert_same(y[:, 6:], expected)
    for name, tensor in end.tensors().items():
        assert_same(state.tensors()[name], tensor)


@every_config
@pytest.mark.parametrize("at", [3, 4, 5, 9])
def test_later_tokens_change_nothing_earlier(config, at):
    memory, x = new_memory(config), tokens(14)
    changed = torch.cat([x[:, :at], tokens(14 - at)], 1)
    before, after = memory(x)[0], memory(changed)[0]
    assert (before[:, :at] - after[:, :at]).abs().max() <= 1e-12
    assert (before[:, at:] - after[:, at:]).abs().amax((0, 2)).min() > 1e-8


@every_config
def test_the_first_token_is_remembered(config):
    memory, x = new_memory(config), tokens(40)
    changed = x.clone()
    changed[:, 0] += 1
    assert (memory(x)[0][:, -1] - memory(changed)[0][:, -1]).abs().max() > 1e-9


def test_rows_are_independent_and_calls_are_pure():
    memory, x = new_memory(CONFIGS["default"]), tokens(14, rows=3)
    before, _ = memory(x)
    changed = x.clone()
    changed[1] = tokens(14, rows=1)[0]
    after, _ = memory(changed)
    assert (before != after).any(dim=(1, 2)).tolist() == [False, True, False]
    assert torch.equal(memory(x)[0], before)
    assert_same(memory(x[2:])[0], before[2:])


@every_config
def test_every_parameter_learns(config):
    memory = NeuralMemory(DIM, config)
    optimizer = torch.optim.AdamW(memory.parameters(), lr=1e-2)
    before = {name: parameter.detach().clone() for name, parameter in memory.named_parameters()}
    memory(torch.randn(4, 30, DIM))[0].square().mean().backward()
    for name, parameter in memory.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    optimizer.step()
    for name, parameter in memory.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_switches_leave_no_unused_parameters():
    names = {name: {n for n, _ in NeuralMemory(DIM, config).named_parameters()} for name, config in CONFIGS.items()}
    assert not any("gates.momentum" in n for n in names["no-momentum"])
    assert not any("gates.forget" in n for n in names["no-forgetting"])
    assert "conv_weight" not in names["no-convolution"]
    assert "norm_weight" not in names["linear"]


def test_reading_a_memory_that_is_never_written_is_recall():
    config = CONFIGS["default"].replace(momentum=False, forgetting=False)
    memory, x = new_memory(config), tokens(14)
    with torch.no_grad():
        memory.gates.step.weight.zero_()  # pyright: ignore
        memory.gates.step.bias.fill_(-100)  # pyright: ignore
    y, state = memory(x)
    for found, initial in zip(state.weights, memory.initial_weights, strict=True):
        assert torch.equal(found, initial.expand_as(found))
    tail = torch.zeros(2, 3, DIM, dtype=torch.float64)
    position = torch.arange(14).expand(2, 14)
    queries, _ = memory.queries(x, tail, position, None, None)
    assert_same(memory.recall(queries, memory.output_gate(x), state.weights), y)


def test_a_step_that_is_wide_open_is_exactly_what_the_guard_lets_through():
    config = CONFIGS["reflecting"].replace(num_heads=1, max_step=4.0, convolution=False)
    memory, x = new_memory(config), tokens(2)
    assert isinstance(memory.gates.step, torch.nn.Linear)
    with torch.no_grad():
        memory.gates.step.weight.zero_()
        memory.gates.step.bias.fill_(10)
    _, before = memory(x[:, :1])
    _, after = memory(x[:, 1:], before)
    (_, key, value), _ = memory.heads(memory.project_qkv(x[:, 1:]), before, None, None)
    key, value = key[:, 0], value[:, 0]  # [B, 1, d]
    answers = [(key.unsqueeze(-2) @ state.weights[0]).squeeze(-2) for state in (before, after)]
    assert_same(key.norm(dim=-1), torch.ones_like(key[..., 0]), 1e-5)
    assert_same(answers[1] - value, (1 - 1.9999) * (answers[0] - value), 1e-5)


@pytest.mark.parametrize("depth", [1, 2])
def test_an_untrained_memory_says_what_followed_the_last_time(depth):
    """Keys match queries, values turn back into tokens, the gates let both through. Chance is right 1 time in 16."""
    right = []
    for seed in range(5):
        torch.manual_seed(seed)
        memory = NeuralMemory(256, MemoryConfig(num_heads=2, depth=depth, forgetting=False))
        words = torch.randn(16, 256)
        y, _ = memory(words.repeat(2, 1).unsqueeze(0))
        said = (y[0, 16:-1] @ words.T).argmax(-1)
        right.append((said == torch.arange(1, 16)).double().mean())
    assert torch.stack(right).mean() > 0.85, right

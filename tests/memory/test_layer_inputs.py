"""The layer's gates, its precision, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F

from titans.memory import MemoryConfig, NeuralMemory
from titans.memory.layer import FORGET_MARGIN, MAX_FORGET, STEP_MARGIN, closing

DIM = 8
CONFIG = MemoryConfig(num_heads=2, chunk_size=4, expansion=2)


@pytest.fixture
def memory() -> NeuralMemory:
    return NeuralMemory(DIM, CONFIG)


def test_gates_close_and_open_exactly():
    gate = torch.tensor([0.0, 0.05, 0.5, 0.95, 1.0])
    assert closing(gate, STEP_MARGIN).tolist() == pytest.approx([0, 0, 0.5, 1, 1])
    assert closing(torch.tensor([0.04, 0.96]), FORGET_MARGIN).tolist() == [0, 1]


def test_gates_are_what_the_names_say(memory):
    x = torch.randn(3, 5, DIM)
    g, log_eta, theta = memory.gates(x)
    assert g.shape == log_eta.shape == theta.shape == (3, 5, 2, 2)
    eta_logits = memory.gates.momentum(x).view(3, 5, 2, 2)
    torch.testing.assert_close(log_eta.exp(), torch.sigmoid(eta_logits))
    raw = torch.sigmoid(memory.gates.step(x).view(3, 5, 2, 2))
    fresh = 1 - log_eta.exp()  # momentum does not amplify
    torch.testing.assert_close(theta, CONFIG.largest_step * closing(raw, STEP_MARGIN) * fresh)
    alpha = closing(torch.sigmoid(memory.gates.forget(x).view(3, 5, 2, 2)), FORGET_MARGIN)
    torch.testing.assert_close(1 - g.exp(), alpha, atol=1e-6, rtol=1e-5)


def test_horizons_are_spread_over_the_heads():
    memory = NeuralMemory(48, MemoryConfig(num_heads=3, gate_granularity="channel"))
    g, _, _ = memory.gates(torch.zeros(1, 1, 48))
    alpha = 1 - g[0, 0].exp()
    assert alpha[:, 0].tolist() == pytest.approx([0.001, 0.01, 0.1], rel=1e-3)
    assert (alpha == alpha[:, :1]).all()


def test_extreme_inputs_keep_the_gates_in_range(memory):
    for size in (1e3, 1e6):
        g, log_eta, theta = memory.gates(size * torch.randn(2, 50, DIM))
        assert g.max() <= 0
        assert g.min() >= torch.log1p(torch.tensor(-MAX_FORGET)) - 1e-3
        assert log_eta.max() <= 0
        assert ((theta >= 0) & (theta <= CONFIG.largest_step)).all()
        assert bool(torch.isfinite(torch.stack([g, log_eta, theta])).all())


def test_switched_off_gates():
    x = torch.randn(1, 3, DIM)
    g, log_eta, _ = NeuralMemory(DIM, CONFIG.replace(momentum=False, forgetting=False)).gates(x)
    assert log_eta is None
    assert (g == 0).all()
    doubled = NeuralMemory(DIM, CONFIG.replace(max_step=2.0, momentum=False))
    with torch.no_grad():
        doubled.gates.step.bias.fill_(100)  # pyright: ignore
    assert (doubled.gates(x)[2] == 2).all()


def test_a_closed_step_leaves_no_trace(memory):
    # theta = 0 and alpha = 0 exactly: after any number of tokens the memory is bit for bit what it was.
    with torch.no_grad():
        for gate in (memory.gates.step, memory.gates.forget):
            gate.weight.zero_()
            gate.bias.fill_(-100)
    _, state = memory(torch.randn(1, 400, DIM))
    for found, initial in zip(state.weights, memory.initial_weights, strict=True):
        assert torch.equal(found[0], initial)


def test_state_stays_in_single_precision_under_autocast(memory):
    x = torch.randn(2, 70, DIM)
    expected, _ = memory(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = memory(x)
        _, state = memory(x[:, :3], state)
        _, state = memory(x[:, :1], state)
    assert all(t.dtype == torch.float32 for t in state.tensors().values() if t.is_floating_point())
    assert bool(torch.isfinite(y).all())
    assert F.cosine_similarity(y.float().flatten(), expected.flatten(), dim=0) > 0.99
    y.float().square().sum().backward()
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in memory.parameters())


def test_gates_and_what_is_recalled_are_in_single_precision_under_autocast(memory, monkeypatch):
    x, reads, logits = torch.randn(2, 12, DIM), [], []
    queries, gate, state = torch.randn(2, 12, 2, DIM // 2), memory.output_gate(x), memory.begin(x).own()
    memory.output_norm.register_forward_pre_hook(lambda _, arguments: reads.append(arguments[0]))
    gates, original = memory.gates(x), memory.gates.logits
    memory.recall(queries, gate, state.weights)
    monkeypatch.setattr(memory.gates, "logits", lambda x: logits.append(original(x)) or logits[-1])
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(one, other) for one, other in zip(memory.gates(x), gates, strict=True))
        memory.recall(queries, gate, state.weights)
        memory.step_(x[:, 0].detach(), state)
    assert torch.equal(*reads[:2])
    for of_all, of_the_first in zip(*logits, strict=True):
        torch.testing.assert_close(of_the_first, of_all[:, 0], rtol=0, atol=1e-6)


def test_a_memory_in_half_precision_keeps_a_single_precision_state(memory):
    x = torch.randn(2, 20, DIM)
    expected, _ = memory(x)
    memory.bfloat16()
    y, state = memory(x.bfloat16())
    y2, state = memory(x[:, :1].bfloat16(), state)
    assert y.dtype == y2.dtype == torch.bfloat16
    assert all(t.dtype == torch.float32 for t in state.tensors().values() if t.is_floating_point())
    assert F.cosine_similarity(y.float().flatten(), expected.flatten(), dim=0) > 0.98


def refused(match: str, call, *arguments, **named) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        call(*arguments, **named)
    assert "\n" not in str(caught.value)


def test_bad_inputs_are_named(memory):
    x = torch.randn(2, 6, DIM)
    refused(r"x must be \[B, T, dim = 8\], got \(2, 6, 9\)", memory, torch.randn(2, 6, 9))
    refused(r"x must be \[B, T, dim = 8\], got \(6, 8\)", memory, x[0])
    refused(r"no tokens \(T = 0\)", memory, x[:, :0])
    refused("x must be a floating-point tensor", memory, x.long())
    refused("float64", memory, x.double())
    refused("bfloat16", memory, x.bfloat16())
    for value in (float("nan"), float("inf")):
        bad = x.clone()
        bad[1, 3, 2] = value
        refused("NaN or infinite", memory, bad)
    refused(r"mask must be \[B, T\] = \(2, 6\), got \(2, 5\)", memory, x, mask=torch.ones(2, 5))
    refused(r"reset must be \[B, T\] = \(2, 6\), got \(2,\)", memory, x, reset=torch.ones(2))
    refused("x must be a tensor, got list", memory, [[0.0] * DIM])
    refused("mask must be a tensor, got list", memory, x, mask=[[1] * 6] * 2)
    refused("x is on meta and the memory on cpu", memory, x.to("meta"))
    for length in (1, 6):
        refused("the state is on meta, the rest of the call on cpu", memory, x[:, :length], memory.begin(x).to("meta"))
    refused("dim is 9; it must be a multiple of MemoryConfig.num_heads = 2", NeuralMemory, 9, CONFIG)
    refused("backend", memory, x, backend="cuda")


@pytest.mark.parametrize(
    ("changes", "dim"),
    [
        ({"num_heads": 4}, 8),
        ({"head_dim": 5}, 8),
        ({"head_dim": 5, "convolution": False}, 8),
        ({"depth": 1}, 8),
        ({"depth": 3}, 8),
        ({"expansion": 3}, 8),
        ({"chunk_size": 8}, 8),
        ({"momentum": False}, 8),
        ({"convolution": False}, 8),
        ({"conv_size": 6}, 8),
        ({"conv_size": 2}, 8),
        ({"gate_granularity": "channel"}, 8),
        ({}, 16),
    ],
)
@pytest.mark.parametrize("length", [1, 6])
def test_a_state_of_another_memory_is_refused(memory, changes, dim, length):
    other = NeuralMemory(dim, CONFIG.replace(**changes))
    _, state = other(torch.randn(2, 5, dim))
    refused("state", memory, torch.randn(2, length, DIM), state)
    _, ours = memory(torch.randn(2, 5, DIM))
    refused("state", other, torch.randn(2, length, dim), ours)


def test_a_state_of_another_batch_or_precision_is_refused(memory):
    _, state = memory(torch.randn(3, 5, DIM))
    refused("the state has 3 rows, x has 2", memory, torch.randn(2, 6, DIM), state)
    double = NeuralMemory(DIM, CONFIG).double()
    refused(
        "the state is torch.float32, this memory keeps torch.float64", double, torch.randn(3, 6, DIM).double(), state
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_heads", 0),
        ("head_dim", 0),
        ("head_dim", 2.0),
        ("depth", 0),
        ("depth", 5),
        ("expansion", 0),
        ("chunk_size", 0),
        ("conv_size", 0),
        ("activation", "tanh"),
        ("gate_granularity", "token"),
        ("initial_momentum", 0.0),
        ("initial_momentum", 1.0),
        ("max_step", 0.0),
        ("max_step", 4.1),
        ("max_step", float("nan")),
        ("guard_limit", 0.0),
        ("guard_limit", 2.0),
        ("depth", 1.5),
        ("chunk_size", "16"),
        ("num_heads", True),
        ("momentum", "yes"),
    ],
)
def test_impossible_settings_are_named(field, value):
    with pytest.raises(ValueError, match=rf"MemoryConfig.{field} (is|should be) "):
        CONFIG.replace(**{field: value})


def test_a_deep_memorys_steps_are_smaller_unless_told_otherwise():
    assert MemoryConfig(depth=1).largest_step == MemoryConfig(depth=2).replace(depth=1).largest_step == 1
    assert MemoryConfig(depth=2).largest_step == MemoryConfig(depth=3).largest_step == 0.1
    assert MemoryConfig(depth=2, expansion=1).largest_step == 0.4
    assert MemoryConfig(depth=2, max_step=0.5).largest_step == 0.5


def test_steps_above_two_need_the_guard():
    CONFIG.replace(max_step=4.0)
    with pytest.raises(ValueError, match="at most 2 without the guard"):
        CONFIG.replace(max_step=2.1, guard=False)


@pytest.mark.parametrize("dim", [0, -4, 32.0])
def test_an_impossible_width_is_refused(dim):
    with pytest.raises(ValueError, match="it must be a whole number, at least 1"):
        NeuralMemory(dim)


@pytest.mark.parametrize("granularity", ["head", "channel"])
@pytest.mark.parametrize("conv_size", [1, 4])
def test_switches_go_together(granularity, conv_size):
    config = CONFIG.replace(forgetting=False, gate_granularity=granularity, conv_size=conv_size)
    memory, x = NeuralMemory(DIM, config), torch.randn(2, 11, DIM)
    y, _ = memory(x)
    begun, state = memory(x[:, :5])
    torch.testing.assert_close(torch.cat([begun, memory(x[:, 5:], state)[0]], 1), y, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("backend", ["reference", "chunked", "recurrent"])
def test_everything_is_made_where_the_memory_is(memory, backend):
    x = torch.randn(2, 6, DIM)
    expected, _ = memory(x, backend=backend)
    with torch.device("meta"):  # as the processor is to a memory on an accelerator: not its device
        first, state = memory(x[:, :3], backend=backend)
        second, state = memory(x[:, 3:], state, backend=backend)
    torch.testing.assert_close(torch.cat([first, second], 1), expected, rtol=0, atol=1e-5)
    assert {tensor.device.type for tensor in state.tensors().values()} == {"cpu"}


def test_a_state_in_another_precision_can_be_converted(memory):
    x = torch.randn(1, 6, DIM)
    expected, _ = memory(x)
    _, state = NeuralMemory(DIM, CONFIG).double()(x[:, :3].double())
    with pytest.raises(ValueError, match=r"this memory keeps torch\.float32: pass state\.to\(torch\.float32\)"):
        memory(x, state)
    _, wide = memory(x[:, :3])
    wide = wide.to(torch.float64).to(torch.float32)
    assert wide.position.dtype == torch.int64
    torch.testing.assert_close(memory(x[:, 3:], wide)[0], expected[:, 3:], rtol=0, atol=1e-5)


def test_a_state_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="state must be the MemoryState of an earlier call, got dict"):
        NeuralMemory(8, MemoryConfig(num_heads=2))(torch.randn(1, 3, 8), {})


@pytest.mark.parametrize("shape", [(), (8,), (3, 8)])
def test_an_input_without_rows_or_tokens_is_refused(shape):
    with pytest.raises(ValueError, match=r"x must be \[B, T, dim = 8\]"):
        NeuralMemory(8, MemoryConfig(num_heads=2))(torch.randn(shape))

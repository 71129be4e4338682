"""Thousands of tokens of the inputs that make a memory diverge, and that the guard is what keeps it from doing so."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from titans.memory import MemoryConfig, MemoryNetwork, NeuralMemory, chunk_titans

TOKENS, DIM = 4096, 16
INPUTS = ["constant", "repeated", "alternating", "random", "positive", "one-hot"]


def keys_and_values() -> tuple[Tensor, Tensor]:
    """One row for each of INPUTS: keys of length 1 and values [6, T, 1, d]."""
    one, few = torch.randn(DIM), torch.arange(TOKENS) % 5
    keys = [
        one.expand(TOKENS, DIM),
        torch.randn(5, DIM)[few],
        torch.stack([one, -one])[torch.arange(TOKENS) % 2],
        torch.randn(TOKENS, DIM),
        F.silu(torch.randn(TOKENS, DIM)).clamp_min(0) + 0.01,
        F.one_hot(torch.arange(TOKENS) % 3, DIM).float(),
    ]
    values = [
        torch.randn(DIM).expand(TOKENS, DIM),
        torch.randn(5, DIM)[few],
        torch.randn(2, DIM)[torch.arange(TOKENS) % 2],
        torch.randn(TOKENS, DIM),
        F.silu(torch.randn(TOKENS, DIM)),
        3 * torch.randn(TOKENS, DIM),  # contradictory: few keys, random values
    ]
    return F.normalize(torch.stack(keys), dim=-1).unsqueeze(2), torch.stack(values).unsqueeze(2)


def soak(
    depth: int,
    chunk_size: int,
    *,
    eta: float | Tensor = 0.9,
    alpha: float = 1e-6,
    guard_limit: float | None = 1.0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs and values [6, T, 1, d], and the largest weight of each row at the end; theta_raw = 0.99 throughout."""
    k, v = keys_and_values()
    weights = tuple(torch.randn(1, a, b) / math.sqrt(a) for a, b in MemoryNetwork(DIM, depth, 2).layer_dims)
    eta = torch.full((len(INPUTS), TOKENS, 1), eta) if isinstance(eta, float) else eta
    y, state = chunk_titans(
        k.to(dtype),
        k.to(dtype),
        v.to(dtype),
        torch.full_like(eta, math.log1p(-alpha)),
        eta.log(),
        0.99 * (1 - eta),
        weights,
        chunk_size=chunk_size,
        guard_limit=guard_limit,
        output_final_state=True,
    )
    assert state is not None
    return y.float(), v, torch.stack([w.abs().amax((1, 2, 3)) for w in state.weights]).amax(0)


def assert_bounded(y: Tensor, v: Tensor, largest_weights: Tensor, limit: float = 4.0) -> None:
    for row, name in enumerate(INPUTS):
        assert bool(torch.isfinite(y[row]).all()), name
        assert y[row].abs().max() <= limit * v[row].abs().max(), name
        # Large values that contradict each other keep a deep memory's weights moving behind its layer norm, which
        # makes each step smaller than the last: they grow with the fourth root of the tokens.
        assert largest_weights[row] < (60 if name == "one-hot" else 20), name


@pytest.mark.parametrize("chunk_size", [16, 64])
@pytest.mark.parametrize(
    ("depth", "eta", "alpha", "dtype"),
    [
        (1, 0.9, 1e-6, torch.float32),
        (1, 0.9, 0.999, torch.bfloat16),
        (1, 0.99, 0.999, torch.float32),
        (2, 0.9, 1e-6, torch.bfloat16),
        (2, 0.99, 1e-6, torch.float32),
        (2, 0.99, 0.999, torch.float32),
        (3, 0.99, 1e-6, torch.bfloat16),
        (3, 0.9, 0.999, torch.float32),
    ],
)
def test_hard_inputs_stay_bounded(chunk_size, depth, eta, alpha, dtype):
    assert_bounded(*soak(depth, chunk_size, eta=eta, alpha=alpha, dtype=dtype))


@pytest.mark.parametrize(("chunk_size", "eta"), [(4, 0.9), (16, 0.97), (16, 0.99), (64, 0.99)])
def test_momentum_over_several_chunks_stays_bounded(chunk_size, eta):
    assert_bounded(*soak(1, chunk_size, eta=eta))


@pytest.mark.parametrize("chunk_size", [1, 16])
def test_momentum_that_comes_and_goes_stays_bounded(chunk_size):
    # theta = theta_raw (1 - eta) keeps momentum from amplifying only while eta stays the same.
    eta = torch.where(torch.arange(TOKENS) % 64 < 60, 0.999, 0.5).view(1, TOKENS, 1).expand(len(INPUTS), -1, -1)
    assert_bounded(*soak(1, chunk_size, eta=eta))


@pytest.mark.parametrize("chunk_size", [1, 16])
@pytest.mark.parametrize("stay", [100, 300])
def test_keys_that_come_and_go_do_not_push_the_memory_like_a_swing(chunk_size, stay):
    eta, tokens = 0.999, 8192
    k = torch.eye(DIM)[torch.arange(tokens) // stay % 2].view(1, tokens, 1, DIM)
    theta = (1 - eta) * torch.rand(1, tokens, 1)
    y, _ = chunk_titans(k, k, torch.ones_like(k), torch.zeros_like(theta), torch.full_like(theta, math.log(eta)), theta,
                        chunk_size=chunk_size)  # fmt: skip
    assert y.abs().max() < 2


@pytest.mark.parametrize("chunk_size", [16, 64])
def test_without_the_guard_the_constant_key_diverges(chunk_size):
    y, v, _ = soak(1, chunk_size, guard_limit=None)
    assert not y[0].abs().max() <= 1e6  # NaN counts as diverged
    y, v, _ = soak(1, chunk_size)
    assert y[0].abs().max() <= 4 * v[0].abs().max()


def test_without_the_guard_the_weights_of_a_deep_memory_run_away():
    # Layer norm bounds its outputs all the same.
    assert soak(2, 64, guard_limit=None)[2].max() > 50
    assert soak(2, 64)[2].max() < 20


def test_a_constant_stream_is_learned_not_merely_survived():
    y, v, _ = soak(1, 16)
    assert (y[0, -1] - v[0, -1]).abs().max() < 1e-3
    assert (y[1, -5:] - v[1, -5:]).abs().max() < 1e-2


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_layer_stays_bounded(depth, autocast):
    memory = NeuralMemory(32, MemoryConfig(num_heads=2, depth=depth, chunk_size=64, expansion=2))
    with torch.no_grad():
        memory.gates.step.bias.fill_(10)  # pyright: ignore
        memory.gates.momentum.bias.fill_(2)  # pyright: ignore
        memory.gates.forget.bias.fill_(-10)  # pyright: ignore
    x = torch.stack(
        [torch.randn(32).expand(TOKENS, 32), torch.randn(TOKENS, 32), torch.randn(3, 32).repeat(1366, 1)[:TOKENS]]
    )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y, state = memory(x)
    assert bool(torch.isfinite(y).all())
    assert y.abs().max() < 100
    assert all(bool(torch.isfinite(t).all()) for t in state.tensors().values())
    assert max(w.abs().max().item() for w in state.weights) < 20
    assert state.weights[0].dtype == torch.float32

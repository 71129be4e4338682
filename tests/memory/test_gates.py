"""What gates add up to inside a chunk, against plain loops over the recurrence."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from titans.memory.gates import MOMENTUM_SHARE, Decay, Gates, decays, divisors, next_pending, segment_sums

TOKENS, WIDTHS = 7, [3, 5]


def gates_of(granularity: str, momentum: bool = True) -> Gates:
    width = {"shared": 1, "layer": 2, "channel": sum(WIDTHS)}[granularity]
    steps = 1 if granularity == "shared" else 2

    def gate(width: int) -> Tensor:
        return F.logsigmoid(torch.randn(2, TOKENS, width, dtype=torch.float64))

    return Gates(gate(width), gate(steps) if momentum else None, gate(steps).exp())


def column(gate: Tensor, layer: int) -> Tensor:
    """[..., C, 1 or L or channels] -> [..., C, 1] or the layer's channels [..., C, d_in]."""
    if gate.shape[-1] == sum(WIDTHS):
        return gate.split(WIDTHS, -1)[layer]
    return gate[..., min(layer, gate.shape[-1] - 1)].unsqueeze(-1)


def by_recurrence(gates: Gates, layer: int) -> Decay:
    """The same sums by pushing one impulse after the other through equations 13 and 14."""
    keep, theta = column(gates.g, layer).exp(), column(gates.theta, layer)
    eta = torch.zeros_like(theta) if gates.log_eta is None else column(gates.log_eta, layer).exp()

    def respond(weight: float, momentum: float, at: int | None) -> tuple[Tensor, Tensor]:
        """Weights and momentum after each token, [..., t, channels] and [..., t, 1]."""
        w = torch.full_like(keep[:, 0], weight)
        s = torch.full_like(theta[:, 0], momentum)
        trace = []
        for t in range(TOKENS):
            s = eta[:, t] * s + (theta[:, t] if t == at else 0)
            w = keep[:, t] * w + s
            trace.append((w, s))
        return torch.stack([w for w, _ in trace], 1), torch.stack([s for _, s in trace], 1)

    kept, _ = respond(1, 0, None)
    carried, survival = respond(0, 1, None)
    impulses = [respond(0, 0, i) for i in range(TOKENS)]
    write = torch.stack([w for w, _ in impulses], 2)  # [..., t, i, channels]
    push = torch.stack([s for _, s in impulses], 2)[..., 0]  # [..., t, i]
    if gates.log_eta is None:
        return Decay(kept, None, write, None, None, write.amax(-1), None)
    ahead = eta / (1 - eta)  # what a unit of momentum moves from the next token on, if eta stays
    strain = write.amax(-1) + ahead * push
    drift = carried.amax(-1) + (ahead * survival)[..., 0]
    return Decay(kept, carried, write, push[:, -1].unsqueeze(-1), survival[:, -1:], strain, drift)


@pytest.mark.parametrize("granularity", ["shared", "layer", "channel"])
@pytest.mark.parametrize("momentum", [True, False])
def test_sums_are_those_of_the_recurrence(granularity, momentum):
    gates = gates_of(granularity, momentum)
    for layer, found in enumerate(decays(gates, WIDTHS)):
        expected = by_recurrence(gates, layer)
        write = found.write if found.write.dim() == 4 else found.write.unsqueeze(-1)
        torch.testing.assert_close(found.kept, expected.kept)
        torch.testing.assert_close(write, expected.write)
        torch.testing.assert_close(found.strain, expected.strain)
        assert not found.strain.requires_grad
        if momentum:
            torch.testing.assert_close(found.carried, expected.carried)
            torch.testing.assert_close(found.push, expected.push)
            torch.testing.assert_close(found.survival, expected.survival)
            torch.testing.assert_close(found.drift, expected.drift)
            assert not found.drift.requires_grad
        else:
            assert found.carried is found.push is found.survival is found.drift is None


def test_all_chunks_at_once_are_each_chunk_alone():
    gates = gates_of("layer")
    together = [list(per_round) for per_round in zip(*(x.unbind() for x in decays(gates, WIDTHS)), strict=True)]
    for r in range(2):
        for found, expected in zip(together[r], decays(Gates(*(x[r] for x in gates)), WIDTHS), strict=True):
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b)


def test_segment_sums():
    x = -torch.rand(9, dtype=torch.float64)
    found = segment_sums(x)
    for t in range(9):
        for j in range(9):
            expected = x[j + 1 : t + 1].sum() if j <= t else torch.tensor(-torch.inf, dtype=torch.float64)
            torch.testing.assert_close(found[t, j], expected)


@pytest.mark.parametrize("eta", [0.5, 0.01])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_strong_decay_over_256_tokens_is_exact(eta, dtype):
    # Dividing cumulative products is wrong by 10^6 here: they underflow.
    gate = torch.full((1, 256, 1), eta, dtype=torch.float64).log()
    gates = Gates(*(x.to(dtype) for x in (gate, gate, torch.ones_like(gate))))
    (found,) = decays(gates, [4])
    w = s = 0.0
    for _ in range(256):
        s = eta * s + 1
        w = eta * w + s
    total = found.write[0, -1].sum().item()
    assert total == pytest.approx(w, rel=1e-6 if dtype == torch.float32 else 1e-13)


@pytest.mark.parametrize("granularity", ["shared", "layer", "channel"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gates_that_are_exactly_shut(granularity, dtype):
    """eta = 0 and alpha = 1: values as in the recurrence, and a finite gradient."""
    leaves = [x.to(dtype) for x in gates_of(granularity)]
    for x in leaves[:2]:
        x[:, 2] = x[:, 3] = -torch.inf
    gates = Gates(*(x.requires_grad_() for x in leaves))
    total = torch.zeros((), dtype=dtype)
    for layer, found in enumerate(decays(gates, WIDTHS)):
        expected = by_recurrence(gates, layer)
        write = found.write if found.write.dim() == 4 else found.write.unsqueeze(-1)
        torch.testing.assert_close(found.kept, expected.kept)
        torch.testing.assert_close(write, expected.write)
        torch.testing.assert_close(found.carried, expected.carried)
        total = total + sum(x.square().sum() for x in found if x is not None)
    for gradient in torch.autograd.grad(total, leaves):
        assert bool(torch.isfinite(gradient).all())


def test_a_token_with_empty_gates_leaves_the_sums_as_they_are():
    gates = gates_of("layer")
    padded = Gates(*(F.pad(x, (0, 0, 0, 3)) for x in gates))
    for before, after in zip(decays(gates, WIDTHS), decays(padded, WIDTHS), strict=True):
        torch.testing.assert_close(after.kept[:, -1], before.kept[:, -1])
        torch.testing.assert_close(after.carried[:, :TOKENS], before.carried)
        torch.testing.assert_close(after.write[:, :TOKENS, :TOKENS], before.write)
        torch.testing.assert_close(after.push[:, :TOKENS], before.push)
        torch.testing.assert_close(after.survival, before.survival)
        torch.testing.assert_close(after.strain[:, :TOKENS, :TOKENS], before.strain)
        assert (after.write[:, :, TOKENS:] == 0).all()


@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_divisors_by_their_definition(granularity):
    gates = gates_of(granularity)
    layers = decays(Gates(*(x[None] for x in gates)), WIDTHS)  # [B = 1, H = 2, ...]
    bounds = [torch.rand(1, 2, TOKENS, TOKENS, dtype=torch.float64) for _ in WIDTHS]
    bounds = [b + b.transpose(-1, -2) for b in bounds]
    pending = torch.rand(1, 2, len(WIDTHS), dtype=torch.float64)
    found = divisors(bounds, layers, pending, 0.7)
    after = next_pending(bounds, layers, pending, found)
    for h in range(2):
        for t in range(TOKENS):
            rates = []
            for i in range(t + 1):
                rate = 0.0
                for bound, decay in zip(bounds, layers, strict=True):
                    rate += sum(float(decay.strain[0, h, t, j] * bound[0, h, i, j]) for j in range(t + 1))
                rates.append(rate)
            room = 0.7 * (1 + min(float(decay.kept[0, h, t].min()) for decay in layers)) / 2
            assert found.step[0, h, t].item() == pytest.approx(max(1.0, max(rates) / room), rel=1e-12)
            planned = sum(float(decay.drift[0, h, t] * pending[0, h, layer]) for layer, decay in enumerate(layers))
            expected = max(1.0, planned / (room * MOMENTUM_SHARE))
            assert found.momentum[0, h, t].item() == pytest.approx(expected, rel=1e-12)
        for layer, (bound, decay) in enumerate(zip(bounds, layers, strict=True)):
            own = max(float((bound[0, h, i] * decay.push[0, h, :, 0]).sum()) for i in range(TOKENS))
            left = float(decay.survival[0, h] * pending[0, h, layer]) / float(found.momentum[0, h, -1])
            assert after[0, h, layer].item() == pytest.approx(left + own / float(found.step[0, h, -1]), rel=1e-12)
    assert not any(x.requires_grad for x in (*found, after))


def test_divisors_leave_small_steps_alone_and_do_not_see_the_future():
    gates = gates_of("layer")
    small = decays(Gates(gates.g[None], gates.log_eta[None], 1e-3 * gates.theta[None]), WIDTHS)
    bounds = [torch.ones(1, 2, TOKENS, TOKENS, dtype=torch.float64)] * 2
    pending = torch.zeros(1, 2, 2, dtype=torch.float64)
    assert all((x == 1).all() for x in divisors(bounds, small, pending, 1.0))
    layers = decays(Gates(*(x[None] for x in gates)), WIDTHS)
    before = divisors(bounds, layers, pending, 1.0).step
    changed = [b.clone() for b in bounds]
    for b in changed:
        b[..., 4:, :] = b[..., :, 4:] = 100.0
    after = divisors(changed, layers, pending, 1.0).step
    assert torch.equal(before[..., :4], after[..., :4])
    assert (after[..., 4:] > before[..., 4:]).all()

"""What the gates of a chunk add up to: products of decays, weights of past gradients, and the step-size guard.

Inside a chunk that starts from weights W and momentum S, all gradients are taken at W, so (eq. 13-14)

    W_t = kept_t W + carried_t S / m_t - sum_{i<=t} write[t, i] grad_i / n_t
    kept_t       = prod_{m<=t} (1 - alpha_m)
    carried_t    = sum_{j<=t} A[t, j] prod_{m<=j} eta_m
    write[t, i]  = sum_{i<=j<=t} A[t, j] E[j, i] theta_i
    A[t, j] = prod_{j<m<=t} (1 - alpha_m),  E[j, i] = prod_{i<m<=j} eta_m,  n_t and m_t the guard's divisors.

Letters: B rows, H heads, C tokens of the chunk, L memory layers, d_in input width of a layer, G gates per head:
1 (shared by all layers), L (one per layer) or the sum of all d_in (one per input channel of each layer).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Share of a full correction that momentum from earlier chunks may still plan. At 1 it and the chunk's own gradients
# together could overshoot by as much as they correct.
MOMENTUM_SHARE = 0.5
STEP_MARGIN, FORGET_MARGIN = 0.1, 0.05  # how far gates are stretched past 0 and 1, so that they can close exactly
MAX_FORGET = 1 - 1e-6  # alpha = 1 exactly has no finite logarithm and no gradient


class Gates(NamedTuple):
    """The data-dependent gates of some tokens. A token with (0, 0, 0) leaves the sums of its chunk as they are.

    g: log(1 - alpha) [..., C, G]; log_eta: [..., C, 1 or L], None without momentum; theta: [..., C, 1 or L].
    """

    g: Tensor
    log_eta: Tensor | None
    theta: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> "Gates":
        """The gates with `change` applied to each."""
        return Gates(change(self.g), None if self.log_eta is None else change(self.log_eta), change(self.theta))

    def merge(self, other: "Gates", pick: Callable[[Tensor, Tensor], Tensor]) -> "Gates":
        """The gates that `pick` makes of each pair."""
        log_eta = None
        if self.log_eta is not None and other.log_eta is not None:
            log_eta = pick(self.log_eta, other.log_eta)
        return Gates(pick(self.g, other.g), log_eta, pick(self.theta, other.theta))

    def as_state(self) -> tuple[Tensor, ...]:
        """In the order in which `MemoryState.gates` keeps them."""
        return (self.g, self.theta) if self.log_eta is None else (self.g, self.theta, self.log_eta)


class Decay(NamedTuple):
    """The sums above for one memory layer; K is 1, or d_in with channel-wise forgetting.

    kept, carried: [..., C, K]; write: [..., C, C] or [..., C, C, d_in]; push: [..., C, 1], weight of each gradient in
    the momentum at the chunk's end; survival: [..., 1, 1], what is left there of the momentum at its start.
    """

    kept: Tensor
    carried: Tensor | None
    write: Tensor
    push: Tensor | None
    survival: Tensor | None
    strain: Tensor
    """how far each gradient will have moved the weights in the end, as seen at each token [..., C, C], no gradient"""
    drift: Tensor | None
    """the same for the momentum that the chunk began with [..., C], no gradient; see `divisors`"""

    def unbind(self) -> "list[Decay]":
        """One `Decay` per entry of the leading axis."""

        def parts(x: Tensor | None) -> Sequence[Tensor | None]:
            return [None] * len(self.kept) if x is None else x.unbind(0)

        columns = (
            self.kept.unbind(0),
            parts(self.carried),
            self.write.unbind(0),
            parts(self.push),
            parts(self.survival),
            self.strain.unbind(0),
            parts(self.drift),
        )
        return [Decay(*entry) for entry in zip(*columns, strict=True)]


def segment_sums(x: Tensor) -> Tensor:
    """Sums over every interval: out[t, j] = x_{j+1} + ... + x_t for j <= t, minus infinity above the diagonal.

    x: [..., C] logarithms, at most 0 -> [..., C, C]. Differences of cumulative sums, taken in float64 so that nothing
    is lost; a gate at exactly 0 (log -inf) counts as exp(-1000), which is 0 in either precision. Dividing cumulative
    products instead would be wrong by orders of magnitude.
    """
    sums = x.double().clamp_min(-1000).cumsum(-1)
    size = x.shape[-1]
    future = torch.ones(size, size, dtype=torch.bool, device=x.device).triu(1)
    return (sums.unsqueeze(-1) - sums.unsqueeze(-2)).to(x.dtype).masked_fill(future, -torch.inf)


def decays(gates: Gates, layer_widths: list[int]) -> list[Decay]:
    """One `Decay` per memory layer. Any leading axes: those of all chunks may be computed at once."""
    depth = len(layer_widths)
    if gates.g.shape[-1] not in (1, depth):
        slices = gates.g.split(layer_widths, dim=-1)
        return [_channel_decay(g, *_layer(gates, layer)) for layer, g in enumerate(slices)]

    g, theta = gates.g.transpose(-1, -2), gates.theta.transpose(-1, -2)  # [..., G, C]
    keep = segment_sums(g).exp()  # A [..., G, C, C]
    kept = _per_layer(g.cumsum(-1).exp().transpose(-1, -2).unsqueeze(-2), -1, depth)  # each [..., C, 1]
    if gates.log_eta is None:
        write = _per_layer(keep * theta.unsqueeze(-2), -3, depth)
        return [Decay(k, None, w, None, None, w.detach(), None) for k, w in zip(kept, write, strict=True)]

    log_eta = gates.log_eta.transpose(-1, -2)
    survive = segment_sums(log_eta).exp()  # E [..., G, C, C]
    survival = log_eta.cumsum(-1).exp()
    carry = (keep @ survival.unsqueeze(-1)).squeeze(-1)
    writes = (keep @ survive) * theta.unsqueeze(-2)
    strains, drifts = _eventual(writes, carry, survive, survival, theta, log_eta)
    columns = (
        kept,
        _per_layer(carry.unsqueeze(-1), -3, depth),
        _per_layer(writes, -3, depth),
        _per_layer((survive[..., -1, :] * theta).unsqueeze(-1), -3, depth),
        _per_layer(survival[..., -1:].unsqueeze(-1), -3, depth),
        _per_layer(strains, -3, depth),
        _per_layer(drifts, -2, depth),
    )
    return [Decay(*layer) for layer in zip(*columns, strict=True)]


def _per_layer(x: Tensor, dim: int, depth: int) -> list[Tensor]:
    """The entries of an axis of length 1 or L, one for each of L memory layers."""
    parts = x.unbind(dim)
    return [parts[min(layer, len(parts) - 1)] for layer in range(depth)]


def _layer(gates: Gates, layer: int) -> tuple[Tensor | None, Tensor]:
    """log_eta and theta [..., C] of one layer."""

    def pick(x: Tensor) -> Tensor:
        return x[..., min(layer, x.shape[-1] - 1)]

    return None if gates.log_eta is None else pick(gates.log_eta), pick(gates.theta)


def _channel_decay(g: Tensor, log_eta: Tensor | None, theta: Tensor) -> Decay:
    """The same sums with a forget gate per input channel: g [..., C, d_in], log_eta and theta [..., C]."""
    keep = segment_sums(g.transpose(-1, -2)).exp().movedim(-3, -1)  # A [..., C, C, d_in]
    kept = g.cumsum(-2).exp()
    if log_eta is None:
        write = keep * theta[..., None, :, None]
        return Decay(kept, None, write, None, None, write.detach().amax(-1), None)
    survive = segment_sums(log_eta).exp()
    survival = log_eta.cumsum(-1).exp()
    carried = torch.einsum("...tjc,...j->...tc", keep, survival)
    write = torch.einsum("...tjc,...ji->...tic", keep, survive) * theta[..., None, :, None]
    push = (survive[..., -1, :] * theta).unsqueeze(-1)
    strain, drift = _eventual(write.amax(-1), carried.amax(-1), survive, survival, theta, log_eta)
    return Decay(kept, carried, write, push, survival[..., -1:].unsqueeze(-1), strain, drift)


@torch.no_grad()
def _eventual(
    write: Tensor, carried: Tensor, survive: Tensor, survival: Tensor, theta: Tensor, log_eta: Tensor
) -> tuple[Tensor, Tensor]:
    """`Decay.strain` [..., C, C] and `Decay.drift` [..., C]: what has moved, and what momentum will still move if eta
    stays as it is.

    write, survive (E): [..., C, C]; carried, survival, theta, log_eta: [..., C].
    """
    eta = log_eta.exp()
    ahead = eta / (1 - eta).clamp_min(torch.finfo(eta.dtype).eps)  # eta + eta^2 + ...
    strain = write + ahead.unsqueeze(-1) * survive * theta.unsqueeze(-2)
    return strain, carried + ahead * survival


class Divisors(NamedTuple):
    """The guard at each token of a chunk [B, H, C]: what its gradients and the momentum from before are divided by."""

    step: Tensor
    momentum: Tensor | None


@torch.no_grad()
def divisors(bounds: list[Tensor], layer_decays: list[Decay], pending: Tensor, limit: float) -> Divisors:
    """The guard: how much to shrink a chunk's gradients, and old momentum, so that neither overshoots.

        n_t = max(1, max_{i<=t} sum_l sum_{j<=t} strain_l[t, j] bound_l[i, j] / room_t)
        m_t = max(1, sum_l drift_l[t] load_l / (room_t MOMENTUM_SHARE))
        strain[t, j] = write[t, j] + E[t, j] theta_j eta_t / (1 - eta_t)
        drift[t] = carried_t + prod_{m<=t} eta_m eta_t / (1 - eta_t)
        room_t = limit (1 + kept_t) / 2

    `bound` is Gershgorin's on the map from the chunk's errors to their own correction. `strain` is how far a gradient
    will have moved the weights once momentum has spent itself, if eta stays as it is; `drift` is the same for momentum
    from earlier chunks, whose gradients `pending` bounds as `bound` does the chunk's own (`next_pending`). So what is
    planned at any time is at most a full correction, whatever the gates were before: a gradient taken under strong
    friction (eta small, theta large) and carried on with hardly any would otherwise move the weights a thousand times
    too far, and keys that come and go in time with eta near 1 push a memory like a swing (docs/lab-log.md).

    Forgetting asks for less: the gradient is taken before the decay, so a full correction of what is being forgotten
    anyway is one too many (kept - 1 = -1 where kept = 0: the memory would swing for ever). Hence (1 + kept_t) / 2, with
    the smallest kept_t of all layers and channels.

    Token t's divisors depend on tokens up to t only. No gradient flows through them, as with gradient clipping.

    bounds: [B, H, C, C] per layer; pending: [B, H, L].
    """
    reach = torch.zeros_like(bounds[0])
    for bound, decay in zip(bounds, layer_decays, strict=True):
        reach = reach + decay.strain @ bound  # [t, i]; bound is symmetric
    past = torch.ones(reach.shape[-2:], dtype=torch.bool, device=reach.device).tril()
    kept = torch.stack([decay.kept.amin(-1) for decay in layer_decays]).amin(0)
    room = limit * (1 + kept) / 2
    step = (reach.masked_fill(~past, 0).amax(-1) / room).clamp_min(1)
    planned = torch.zeros_like(kept)
    for decay, held in zip(layer_decays, pending.unbind(-1), strict=True):
        if decay.drift is None:
            return Divisors(step, None)
        planned = planned + decay.drift * held.unsqueeze(-1)
    return Divisors(step, (planned / (room * MOMENTUM_SHARE)).clamp_min(1))


@torch.no_grad()
def next_pending(bounds: list[Tensor], layer_decays: list[Decay], pending: Tensor, guard: Divisors) -> Tensor:
    """Bound on what the momentum at the chunk's end holds, in units of errors, from that at its start [B, H, L]."""
    entries = []
    for bound, decay, old in zip(bounds, layer_decays, pending.unbind(-1), strict=True):
        if decay.push is None or decay.survival is None or guard.momentum is None:
            return pending
        own = (bound @ decay.push).amax((-2, -1)) / guard.step[..., -1]
        entries.append(decay.survival[..., 0, 0] / guard.momentum[..., -1] * old + own)
    return torch.stack(entries, -1)

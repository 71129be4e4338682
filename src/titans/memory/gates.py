"""What the gates of a chunk add up to: products of decays, weights of past gradients, and the step-size guard.

Inside a chunk that starts from weights W and momentum S, all gradients are taken at W, so (eq. 13-14)

    W_t = kept_t W + carried_t S - sum_{i<=t} write[t, i] grad_i / n_t
    kept_t       = prod_{m<=t} (1 - alpha_m)
    carried_t    = sum_{j<=t} A[t, j] prod_{m<=j} eta_m
    write[t, i]  = sum_{i<=j<=t} A[t, j] E[j, i] theta_i
    A[t, j] = prod_{j<m<=t} (1 - alpha_m),  E[j, i] = prod_{i<m<=j} eta_m,  n_t the guard's divisor.

Letters: B rows, H heads, C tokens of the chunk, L memory layers, d_in input width of a layer, G gates per head:
1 (shared by all layers), L (one per layer) or the sum of all d_in (one per input channel of each layer).
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Gates(NamedTuple):
    """The data-dependent gates of some tokens. A token with (0, 0, 0) leaves the sums of its chunk as they are.

    g: log(1 - alpha) [..., C, G]; log_eta: [..., C, 1 or L], None without momentum; theta: [..., C, 1 or L].
    """

    g: Tensor
    log_eta: Tensor | None
    theta: Tensor


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

    def unbind(self) -> "list[Decay]":
        """One `Decay` per entry of the leading axis."""
        count = len(self.kept)
        parts = [[None] * count if x is None else x.unbind(0) for x in self]
        return [Decay(*entry) for entry in zip(*parts, strict=True)]


def segment_sums(x: Tensor) -> Tensor:
    """Sums over every interval: out[t, j] = x_{j+1} + ... + x_t for j <= t, minus infinity above the diagonal.

    x: [..., C] logarithms, at most 0 -> [..., C, C]. Differences of cumulative sums, taken in float64 so that nothing is
    lost; a gate at exactly 0 (log -inf) counts as exp(-1000), which is 0 in either precision. Dividing cumulative
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

    def per_layer(x: Tensor | None, dim: int = -1) -> list[Tensor | None]:
        if x is None:
            return [None] * depth
        parts = x.unbind(dim)
        return [parts[min(layer, len(parts) - 1)] for layer in range(depth)]

    g, theta = gates.g.transpose(-1, -2), gates.theta.transpose(-1, -2)  # [..., G, C]
    keep = segment_sums(g).exp()  # A [..., G, C, C]
    kept = g.cumsum(-1).exp()
    carried = push = survival = None
    if gates.log_eta is None:
        write = keep * theta.unsqueeze(-2)
    else:
        log_eta = gates.log_eta.transpose(-1, -2)
        survive = segment_sums(log_eta).exp()  # E
        survival = log_eta.cumsum(-1).exp()
        carried = (keep @ survival.unsqueeze(-1)).movedim(-3, -1)  # [..., C, 1, G]
        write = (keep @ survive) * theta.unsqueeze(-2)
        push = (survive[..., -1, :] * theta).transpose(-1, -2).unsqueeze(-2)
        survival = survival[..., -1:].unsqueeze(-1).movedim(-3, -1)
    columns = [per_layer(x) for x in (kept.transpose(-1, -2).unsqueeze(-2), carried, push, survival)]
    return [
        Decay(kept, carried, write, push, survival)
        for kept, carried, push, survival, write in zip(*columns, per_layer(write, -3), strict=True)
    ]


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
        return Decay(kept, None, keep * theta[..., None, :, None], None, None)
    survive = segment_sums(log_eta).exp()
    survival = log_eta.cumsum(-1).exp()
    carried = torch.einsum("...tjc,...j->...tc", keep, survival)
    write = torch.einsum("...tjc,...ji->...tic", keep, survive) * theta[..., None, :, None]
    push = (survive[..., -1, :] * theta).unsqueeze(-1)
    return Decay(kept, carried, write, push, survival[..., -1:].unsqueeze(-1))


def step_divisor(bounds: list[Tensor], layer_decays: list[Decay], limit: float) -> Tensor:
    """The guard: by how much to shrink the summed step at each token so that no prefix of the chunk overshoots.

        r_t = max_{i<=t} sum_l sum_{j<=t} write_l[t, j] bound_l[i, j],        n_t = max(1, r_t / limit)

    r_t bounds (Gershgorin) the largest eigenvalue of the map from the chunk's errors to their own correction. Token t's
    divisor depends on tokens up to t only. No gradient flows through it, as with gradient clipping.

    bounds: [B, H, C, C] per layer -> n [B, H, C].
    """
    with torch.no_grad():
        reach = torch.zeros_like(bounds[0])
        for bound, decay in zip(bounds, layer_decays, strict=True):
            write = decay.write if decay.write.dim() == bound.dim() else decay.write.amax(-1)
            reach = reach + write @ bound  # [t, i]; bound is symmetric
        past = torch.ones(reach.shape[-2:], dtype=torch.bool, device=reach.device).tril()
        return (reach.masked_fill(~past, 0).amax(-1) / limit).clamp_min(1)

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

from collections.abc import Callable, Sequence
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
    """what the guard bounds instead of `write`, [..., C, C], without gradient; see `step_divisor`"""

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
        return [Decay(k, None, w, None, None, w.detach()) for k, w in zip(kept, write, strict=True)]

    log_eta = gates.log_eta.transpose(-1, -2)
    survive = segment_sums(log_eta).exp()  # E [..., G, C, C]
    survival = log_eta.cumsum(-1).exp()
    carried = _per_layer((keep @ survival.unsqueeze(-1)).movedim(-3, -1), -1, depth)
    writes = (keep @ survive) * theta.unsqueeze(-2)
    write = _per_layer(writes, -3, depth)
    strain = _per_layer(
        _strain(writes, (keep @ survival.unsqueeze(-1)).squeeze(-1), survive, theta, log_eta), -3, depth
    )
    push = _per_layer((survive[..., -1, :] * theta).transpose(-1, -2).unsqueeze(-2), -1, depth)
    left = _per_layer(survival[..., -1:].unsqueeze(-1).movedim(-3, -1), -1, depth)
    return [Decay(*layer) for layer in zip(kept, carried, write, push, left, strain, strict=True)]


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
        return Decay(kept, None, write, None, None, write.detach().amax(-1))
    survive = segment_sums(log_eta).exp()
    survival = log_eta.cumsum(-1).exp()
    carried = torch.einsum("...tjc,...j->...tc", keep, survival)
    write = torch.einsum("...tjc,...ji->...tic", keep, survive) * theta[..., None, :, None]
    push = (survive[..., -1, :] * theta).unsqueeze(-1)
    strain = _strain(write.amax(-1), carried.amax(-1), survive, theta, log_eta)
    return Decay(kept, carried, write, push, survival[..., -1:].unsqueeze(-1), strain)


@torch.no_grad()
def _strain(write: Tensor, carried: Tensor, survive: Tensor, theta: Tensor, log_eta: Tensor) -> Tensor:
    """Weights of the chunk's gradients for the guard, see `step_divisor`.

    write, survive (E): [..., C, C]; carried, theta, log_eta: [..., C] -> [..., C, C].
    """
    sums = log_eta.cumsum(-1)
    spent = -torch.expm1(sums).clamp_max(-torch.finfo(sums.dtype).eps)  # 1 - prod eta
    push = survive * theta.unsqueeze(-2)
    pumped = (carried.unsqueeze(-1) * push - sums.exp().unsqueeze(-1) * write) / spent.unsqueeze(-1)
    return torch.maximum(write, 2 * pumped)


def step_divisor(bounds: list[Tensor], layer_decays: list[Decay], limit: float) -> Tensor:
    """The guard: by how much to shrink the summed step at each token so that no prefix of the chunk overshoots.

        r_t = max_{i<=t} sum_l sum_{j<=t} strain_l[t, j] bound_l[i, j]
        n_t = max(1, r_t / (limit (1 + kept_t) / 2))
        strain[t, j] = max(write[t, j], 2 (carried_t push[t, j] - rho_t write[t, j]) / (1 - rho_t))
        push[t, j] = E[t, j] theta_j,  rho_t = prod_{m<=t} eta_m

    With `write` alone r_t would bound (Gershgorin) the largest eigenvalue of the map from the chunk's errors to their
    own correction: no overshoot within the chunk. The second term is for what momentum does later. For one repeated
    key with bound 1, error e and momentum s go through a chunk as (e, s) -> ((1 - d) e + c s, rho s - p e), d and p
    the sums of write and push and c = carried; that is stable if its determinant (1 - d) rho + c p is at most 1.
    Frozen gradients break it as soon as eta is close to 1 and a chunk has more than two tokens; with d and p divided
    by n >= (c p - rho d) / (1 - rho) it holds, and the factor 2 leaves a margin.

    Forgetting asks for less: the gradient is taken before the decay, so a full correction of what is being forgotten
    anyway is one too many (kept - 1 = -1 where kept = 0: the memory would swing for ever). Hence (1 + kept_t) / 2, with
    the smallest kept_t of all layers and channels.

    Token t's divisor depends on tokens up to t only. No gradient flows through it, as with gradient clipping.

    bounds: [B, H, C, C] per layer -> n [B, H, C].
    """
    with torch.no_grad():
        reach = torch.zeros_like(bounds[0])
        for bound, decay in zip(bounds, layer_decays, strict=True):
            reach = reach + decay.strain @ bound  # [t, i]; bound is symmetric
        past = torch.ones(reach.shape[-2:], dtype=torch.bool, device=reach.device).tril()
        kept = torch.stack([decay.kept.amin(-1) for decay in layer_decays]).amin(0)
        return (reach.masked_fill(~past, 0).amax(-1) / (limit * (1 + kept) / 2)).clamp_min(1)

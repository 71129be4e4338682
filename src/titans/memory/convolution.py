"""Causal depthwise convolution over the present tokens of each document, with its past carried as a value."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans.memory.kernels.short_convolution import native_convolution, supported
from titans.memory.layout import compact, take


def convolution_weight(channels: int, size: int) -> nn.Parameter:
    """Taps of the convolution of q, k and v together [3 channels, size], newest first.

    Queries and values start close to the current token and keys close to the one before: what is associated, from the
    first step on, is a token with its successor. With random taps this has to be found by chance (docs/lab-log.md).
    """
    weight = 0.1 * torch.empty(3, channels, size).uniform_(-1, 1)
    for part, tap in enumerate((0, min(1, size - 1), 0)):
        weight[part, :, tap] += 1
    return nn.Parameter(weight.flatten(0, 1))


def tie_keys_to_queries(projection: nn.Linear) -> None:
    """Starts the key projection as a copy of the query projection, so that equal tokens match from the first step."""
    dim = projection.in_features
    with torch.no_grad():
        projection.weight[dim : 2 * dim] = projection.weight[:dim]


def _convolve(joined: Tensor, weight: Tensor, position: Tensor | None) -> Tensor:
    """The sum over the taps; joined: [B, size - 1 + T, channels]."""
    size = weight.shape[1]
    past, length = size - 1, joined.shape[1] - size + 1
    y = joined[:, past:] * weight[:, 0]
    for j in range(1, size):
        tap = joined[:, past - j : past - j + length] * weight[:, j]
        y = y + (tap if position is None else tap * (position >= j).unsqueeze(-1))
    return y


def causal_convolution(
    x: Tensor,
    weight: Tensor,
    tail: Tensor,
    position: Tensor,
    mask: Tensor | None = None,
    reset: Tensor | None = None,
    *,
    silu: bool = False,
) -> tuple[Tensor, Tensor]:
    """One call of a stream: y_t = sum_j weight[:, j] x_{t-j} over the last tokens of the same document, then SiLU.

    x: [B, T, channels]; weight: [channels, size]; tail: the last size - 1 inputs [B, size - 1, channels], zero before
    the document's start; position: of each token in its document [B, T]; mask, reset: [B, T] bool as in `NeuralMemory`.
    Returns y [B, T, channels] (arbitrary at absent tokens) and the new tail, both in the tail's dtype.
    """
    size = weight.shape[1]
    length, past = x.shape[1], size - 1
    count = target = None
    if mask is not None:
        source, target, count = compact(mask)
        x, position = take(x, source), take(position, source)
        reset = None if reset is None else take(reset & mask, source)
    x = x.to(tail.dtype)
    if supported(x, weight):
        y = native_convolution(x, weight.to(x.dtype), tail, None if reset is None else position, silu)
        joined = torch.cat([tail, x[:, max(0, length - past) :]], 1) if mask is None else torch.cat([tail, x], 1)
    else:
        joined = torch.cat([tail, x], 1)
        y = _convolve(joined, weight, None if reset is None else position)
        y = F.silu(y) if silu else y
    y = y if target is None else take(y, target)
    if past == 0:
        return y, tail
    if count is None:
        new_tail = joined[:, joined.shape[1] - past :]
        end = position[:, -1] + 1 if length else None
    else:
        new_tail = take(joined, count.unsqueeze(1) + torch.arange(past, device=x.device))
        end = torch.where(count > 0, take(position, (count - 1).clamp_min(0).unsqueeze(1)).squeeze(1) + 1, past)
    if reset is not None and end is not None:  # what precedes the document is none of its past
        new_tail = new_tail * (torch.arange(past, 0, -1, device=x.device) <= end.unsqueeze(1)).unsqueeze(-1)
    return y, new_tail

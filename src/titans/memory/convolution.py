"""Causal depthwise convolution over the present tokens of each document, with its past carried as a value, and what
follows it: SiLU, and queries and keys brought to length 1."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans.memory.kernels.short_convolution import SUM_ALONE, Finish, native_convolution, supported
from titans.memory.layout import compact, take


def convolution_weight(channels: int, size: int, contexts: int = 1, behind: int = 1) -> nn.Parameter:
    """Taps of the convolution of q, k and v together [3 channels, size], newest first.

    Values start close to the current token, queries close to one of the last `contexts` tokens, by turns from channel
    to channel, and keys `behind` tokens before the queries. At 1, what is associated from the first step on is the last
    few tokens with the one that follows them; at 0, a token with itself. With random taps either has to be found by
    chance (docs/lab-log.md).
    """
    weight = 0.1 * torch.empty(3, channels, size).uniform_(-1, 1)
    channel = torch.arange(channels)
    query = channel % max(1, min(contexts, size - 1))
    for part, tap in enumerate((query, (query + behind).clamp_max(size - 1), torch.zeros_like(query))):
        weight[part, channel, tap] += 1
    return nn.Parameter(weight.flatten(0, 1))


def tie_keys_to_queries(projection: nn.Linear) -> None:
    """Starts the key projection as a copy of the query projection, so that equal tokens match from the first step."""
    queries, keys, _ = projection.weight.chunk(3)
    with torch.no_grad():
        keys.copy_(queries)


def tie_output_to_values(output: nn.Linear, projection: nn.Linear) -> None:
    """Starts the output projection as the value projection turned round, so that what is read back resembles the token
    that was written from the first step on. With random ones this has to be found by chance (docs/lab-log.md)."""
    _, _, values = projection.weight.chunk(3)
    with torch.no_grad():
        output.weight.copy_(values.T)


def _convolve(joined: Tensor, weight: Tensor, position: Tensor | None) -> Tensor:
    """The sum over the taps; joined: [B, size - 1 + T, channels]."""
    size = weight.shape[1]
    past, length = size - 1, joined.shape[1] - size + 1
    y = joined[:, past:] * weight[:, 0]
    for j in range(1, size):
        tap = joined[:, past - j : past - j + length] * weight[:, j]
        y = y + (tap if position is None else tap * (position >= j).unsqueeze(-1))
    return y


def finished(y: Tensor, finish: Finish) -> tuple[Tensor, ...]:
    """y [B, T, channels] -> its parts [B, T, channels / parts]."""
    y = F.silu(y) if finish.silu else y
    parts = y.chunk(finish.parts, -1)
    unit = [F.normalize(x.unflatten(-1, (-1, finish.head_dim)), dim=-1).flatten(-2) for x in parts[: finish.unit_parts]]
    return *unit, *parts[finish.unit_parts :]


def causal_convolution(
    x: Tensor,
    weight: Tensor,
    tail: Tensor,
    position: Tensor,
    mask: Tensor | None = None,
    reset: Tensor | None = None,
    finish: Finish = SUM_ALONE,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """One call of a stream: y_t = sum_j weight[:, j] x_{t-j} over the last tokens of the same document, finished.

    x: [B, T, channels]; weight: [channels, size]; tail: the last size - 1 inputs [B, size - 1, channels], zero before
    the document's start; position: of each token in its document [B, T]; mask, reset: [B, T] bool as in `NeuralMemory`.
    Returns the parts of y, [B, T, channels / parts] each (arbitrary at absent tokens), and the new tail, all in the
    tail's dtype.
    """
    size = weight.shape[1]
    length, past = x.shape[1], size - 1
    count = target = None
    if mask is not None:
        source, target, count = compact(mask)
        x, position = take(x, source), take(position, source)
        reset = None if reset is None else take(reset & mask, source)
    x = x.to(tail.dtype)
    if supported(x, weight, finish):
        parts = native_convolution(x, weight.to(x.dtype), tail, None if reset is None else position, finish)
        joined = torch.cat([tail, x[:, max(0, length - past) :]], 1) if mask is None else torch.cat([tail, x], 1)
    else:
        joined = torch.cat([tail, x], 1)
        parts = finished(_convolve(joined, weight, None if reset is None else position), finish)
    if target is not None:
        parts = tuple(take(part, target) for part in parts)
    if past == 0:
        return parts, tail
    if count is None:
        new_tail = joined[:, joined.shape[1] - past :]
        if joined.shape[1] > 2 * past:  # a view would keep all of the call alive with the state
            new_tail = new_tail.clone()
        end = position[:, -1] + 1 if length else None
    else:
        new_tail = take(joined, count.unsqueeze(1) + torch.arange(past, device=x.device))
        end = torch.where(count > 0, take(position, (count - 1).clamp_min(0).unsqueeze(1)).squeeze(1) + 1, past)
    if reset is not None and end is not None:  # what precedes the document is none of its past
        new_tail = new_tail * (torch.arange(past, 0, -1, device=x.device) <= end.unsqueeze(1)).unsqueeze(-1)
    return parts, new_tail

"""Where each token of a call belongs: chunks counted from the start of its document, absent tokens left out.

A call may begin in the middle of a chunk, end in another, skip masked tokens and start new documents, each row in its
own way. `Layout` turns all of this into one regular shape, [R rounds, B, C slots], in which a round is one chunk of
every row: slot = position in the document mod C. Slots that an earlier call filled are `old`; slots without a token are
empty. A row with fewer chunks than others begins with empty rounds, so that the last round is every row's last chunk.

An accelerator is not asked what its tensors hold, for that would have to wait until it has done all that it was given.
Where the processor does not know, the worst is taken to be so: one chunk more, merged with old slots that may be none.
Only with `reset` is it asked, once: how many documents there are decides how many chunks.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Letters: B rows, T tokens of the call, R rounds, C slots.

    What is a list here is known to the processor, and says what may be so where it could not ask (`perhaps`).
    """

    num_rounds: int
    unit: int
    source: Tensor | None
    """token that fills each slot [B, R * C] int64, T for none; None: slot i holds token i, and only the end is empty"""
    target: Tensor | None
    """slot of each token [B, T] int64, R * C for an absent one"""
    old: Tensor | None
    """slots of the open chunk that earlier calls filled [R, B, C] bool; None if there are none"""
    fresh: Tensor | None
    """rounds that begin a new document [R, B] bool; None if there are none"""
    full: Tensor
    """chunks whose every slot holds a token [R, B] bool"""
    length: int
    """T"""
    end: Tensor
    """position of each row after the call [B] int64"""
    known_end: int | None
    """the same, where it is every row's and the processor knows it"""

    @cached_property
    def all_full(self) -> list[bool]:
        """Rounds in which every row's chunk is full."""
        return self._whole() if self.source is None else [not x for x in perhaps((~self.full).any(1))]

    @cached_property
    def any_full(self) -> list[bool]:
        """Rounds in which some row's chunk may be full."""
        return self._whole() if self.source is None else perhaps(self.full.any(1))

    @cached_property
    def any_old(self) -> list[bool]:
        """Rounds in which some row's chunk may have old slots."""
        return [False] * self.num_rounds if self.old is None else perhaps(self.old.flatten(1).any(1))

    @cached_property
    def any_fresh(self) -> list[bool]:
        """Rounds that may begin a new document in some row."""
        return [False] * self.num_rounds if self.fresh is None else perhaps(self.fresh.any(1))

    def _whole(self) -> list[bool]:
        return [(r + 1) * self.unit <= self.length for r in range(self.num_rounds)]

    def arrange(self, x: Tensor) -> Tensor:
        """[B, T, ...] -> [R, B, C, ...]; empty and old slots are zero."""
        slots = self.num_rounds * self.unit
        if self.source is None or self.target is None:
            missing = slots - x.shape[1]
            x = torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], 1) if missing else x
        else:
            x = _move(x, self.source, self.target)
        return x.unflatten(1, (self.num_rounds, self.unit)).transpose(0, 1)

    def restore(self, x: Tensor) -> Tensor:
        """[R, B, C, ...] -> [B, T, ...]; zero for absent tokens."""
        flat = x.transpose(0, 1).flatten(1, 2)
        if self.source is None or self.target is None:
            return flat[:, : self.length]
        return _move(flat, self.target, self.source)


def document_positions(position: Tensor, length: int, mask: Tensor | None, reset: Tensor | None) -> Tensor:
    """Position of each token in its document [B, T] int64, given that of the call's first token [B].

    For an absent token: the position that the next present token would have, unless that one begins a document.
    """
    if mask is None:
        before = torch.arange(length, device=position.device).expand(position.shape[0], length)
    else:
        before = mask.long().cumsum(1) - mask.long()
    if reset is None:
        return before + position.unsqueeze(1)
    start = torch.where(reset, before, 0).cummax(1).values
    return before - start + torch.where(reset.cumsum(1) > 0, 0, position.unsqueeze(1))


def layout(
    position: Tensor, length: int, unit: int, mask: Tensor | None, reset: Tensor | None, known: int | None = None
) -> Layout:
    """Lays out a call of `length` tokens.

    position: [B] tokens of the open document so far; mask: [B, T] bool, False where a token is absent; reset: [B, T]
    bool, True where a document begins (ignored on absent tokens); known: the position, if it is every row's and the
    processor knows it (`MemoryState.known_position`).
    """
    known_end = None if known is None or mask is not None or reset is not None else known + length
    opened = None if known is None else known % unit  # slots that are old, if that is known
    if opened is None and may_ask(position) and not bool((position % unit).any()):
        opened = 0
    if opened == 0 and mask is None and reset is None and length > 0:
        return _aligned(position, length, unit, known_end)
    rows, device = position.shape[0], position.device
    present = torch.ones(rows, length, dtype=torch.bool, device=device) if mask is None else mask
    reset = None if reset is None else reset & present
    where = document_positions(position, length, mask, reset)
    slot = where % unit
    carried = position % unit

    opens = present & (slot == 0)
    has_old = carried > 0
    count = (opens.sum(1) + has_old.long()).clamp_min(1)
    if may_ask(count) or reset is not None:
        num_rounds = int(count.max())
    else:
        num_rounds = max(1, -(-((unit - 1 if opened is None else opened) + length) // unit))
    first = num_rounds - count  # [B] each row's first round
    round_ = opens.long().cumsum(1) - 1 + has_old.long().unsqueeze(1) + first.unsqueeze(1)

    slots = num_rounds * unit
    target = torch.where(present, round_ * unit + slot, slots)
    tokens = torch.arange(length, device=device).expand(rows, length)
    source = torch.full((rows, slots + 1), length, device=device).scatter(1, target, tokens)[:, :slots]
    rounds = torch.arange(num_rounds, device=device)
    old = None
    if opened != 0:
        in_first = rounds[:, None] == first  # [R, B]
        old = in_first.unsqueeze(-1) & (torch.arange(unit, device=device) < carried.unsqueeze(-1))
    filled = (source < length).unflatten(1, (num_rounds, unit)).transpose(0, 1)
    full = (filled if old is None else filled | old).all(-1)
    fresh = None
    if reset is not None:
        begins = torch.zeros(rows, slots + 1, dtype=torch.bool, device=device).scatter(1, target, reset)[:, :slots]
        fresh = begins.unflatten(1, (num_rounds, unit)).any(-1).transpose(0, 1)
    end = position if length == 0 else where[:, -1] + present[:, -1].long()
    return Layout(
        num_rounds=num_rounds,
        unit=unit,
        source=source,
        target=target,
        old=old,
        fresh=fresh,
        full=full,
        length=length,
        end=end,
        known_end=known_end,
    )


def _aligned(position: Tensor, length: int, unit: int, known_end: int | None) -> Layout:
    num_rounds = -(-length // unit)
    full = unit * torch.arange(1, num_rounds + 1, device=position.device) <= length
    return Layout(
        num_rounds=num_rounds,
        unit=unit,
        source=None,
        target=None,
        old=None,
        fresh=None,
        full=full.unsqueeze(1).expand(-1, position.shape[0]),
        length=length,
        end=position + length,
        known_end=known_end,
    )


class _Move(torch.autograd.Function):
    """x [B, N, ...] -> [B, M, ...]: entry i from place source[i], zero where that is N. Since no place is taken twice,
    the gradient is moved back by `target` [B, N], and nothing need be added up."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, source: Tensor, target: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return take(F.pad(x, (0, 0) * (x.dim() - 2) + (0, 1)), source)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        source, target = ctx.saved_tensors
        return _move(grad, target, source), None, None


def _move(x: Tensor, source: Tensor, target: Tensor) -> Tensor:
    return _Move.apply(x, source, target)  # pyright: ignore[reportReturnType]


def take(x: Tensor, index: Tensor) -> Tensor:
    """x [B, S, ...], index [B, N] -> [B, N, ...]."""
    rows = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    return x[rows, index]


def may_ask(x: Tensor) -> bool:
    """Whether to look at values of x costs nothing: an accelerator would have to be waited for, and a graph of
    torch.compile can hold no question."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def perhaps(flags: Tensor) -> list[bool]:
    """Flags [N], True where it may not be asked."""
    return flags.tolist() if may_ask(flags) else [True] * len(flags)


def perhaps_any(flags: Tensor) -> bool:
    """Whether any flag is set, True where it may not be asked."""
    return not may_ask(flags) or bool(flags.any())


def compact(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Present tokens to the left, in order: source and target indices [B, T] and the number present [B].

    x.gather by `source` is compacted (absent tokens follow); gathering that by `target` puts every present token back.
    """
    source = (~mask).long().argsort(dim=1, stable=True)
    return source, (mask.long().cumsum(1) - 1).clamp_min(0), mask.sum(1)

"""MAC's bookkeeping: a call cut into segments counted from the start of each document.

Letters: B rows, T tokens of the call, S slots of a segment, W tokens that a round handles per row (S or 1).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from titans.memory.layout import Layout, layout


@dataclass(frozen=True)
class Stream:
    """Where the tokens of a call stand. Absent tokens (mask 0) come last in their row."""

    start: Tensor
    """position of the call's first token [B] int64"""
    position: Tensor
    """position of each token in its document [B, T] int64"""
    mask: Tensor | None
    """[B, T] bool, False where a token is absent"""
    reset: Tensor | None
    """[B, T] bool, True where a document begins"""


@dataclass(frozen=True)
class Segment:
    """One round: the tokens of at most one segment per row."""

    tensors: list[Tensor]
    """what was asked for, [B, W, ...] each"""
    slots: Tensor
    """place of each token in its segment [B or 1, W]"""
    old: Tensor | None
    """slots whose contents come from earlier calls [B, S] bool; None if there are none"""
    continues: Tensor | None
    """rows whose segment was opened by an earlier call [B] bool; None if there are none"""
    fresh: Tensor | None
    """rows that begin a document [B] bool; None if there are none"""
    present: Tensor | None
    """tokens that are really there [B, W] bool; None for all"""

    def merge(self, kept: Tensor, new: Tensor, places: slice = slice(None)) -> Tensor:
        """Slots [B, S, ...] filled by earlier calls, and this round's tokens in theirs.

        places: those slots that `kept` and `new` are of.
        """
        if self.old is None:
            return new
        old = self.old[:, places]
        return torch.where(old.view(*old.shape, *([1] * (kept.dim() - 2))), kept, new)


class Segmentation:
    """The segments of one call, and how to put their outputs back in order."""

    def __init__(self, stream: Stream, size: int, known: int | None) -> None:
        """known: `Stream.start`, where it is every row's and the processor knows it."""
        self.stream, self.size = stream, size
        self.length = stream.position.shape[1]
        single = self.length == 1 and stream.mask is None and stream.reset is None
        self.plan: Layout | None = None
        if not single:
            self.plan = layout(stream.start, self.length, size, stream.mask, stream.reset, known)
        self.end = stream.start + 1 if self.plan is None else self.plan.end

    def segments(self, *tensors: Tensor) -> Iterator[Segment]:
        """The tokens of each segment in turn; tensors: [B, T, ...] each."""
        every_slot = torch.arange(self.size, device=self.end.device)
        if self.plan is None:
            slot = self.stream.start.unsqueeze(1) % self.size
            yield Segment(list(tensors), slot, every_slot != slot, slot[:, 0] > 0, None, None)
            return
        plan = self.plan
        rounds = [plan.arrange(x) for x in tensors]
        present = plan.arrange(torch.ones_like(self.stream.position, dtype=torch.bool))
        for r in range(plan.num_rounds):
            old = plan.old[r] if plan.old is not None and plan.any_old[r] else None
            yield Segment(
                tensors=[x[r] for x in rounds],
                slots=every_slot.unsqueeze(0),
                old=old,
                continues=None if old is None else old[:, 0],
                fresh=plan.fresh[r] if plan.fresh is not None and plan.any_fresh[r] else None,
                present=None if plan.all_full[r] and old is None else present[r],
            )

    def restore(self, outputs: list[Tensor]) -> Tensor:
        """Outputs [B, W, ...] of each segment -> [B, T, ...]."""
        return outputs[0] if self.plan is None else self.plan.restore(torch.stack(outputs))

    def open_slots(self, x: Tensor, places: slice = slice(None)) -> Tensor:
        """Slots [B, S, ...] of the last segment, cleared beyond its fill (everywhere if it is complete).

        places: those slots that x is of.
        """
        filled = torch.arange(self.size, device=x.device)[places] < (self.end % self.size).unsqueeze(1)
        return x * filled.view(*filled.shape, *([1] * (x.dim() - 2)))

"""One token per row: where it stands, and how a state takes it up in place.

Letters: B rows, N slots of a window or segment, H heads, d head dimension.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Token:
    """Where the next token of every row stands."""

    position: Tensor
    """in its document [B] int64"""
    running: Tensor | None
    """rows that have a token [B] bool; None for all. The others stay exactly as they are"""
    angles: tuple[Tensor, Tensor]
    """cos and sin of its rotation [B, 1, 1, d / 2]"""

    def put_(self, slots: Tensor, slot: Tensor, new: Tensor, rows: Tensor | None = None) -> None:
        """Writes new [B, ...] into each row's slot [B] of slots [B, N, ...] where it is running and one of `rows`."""
        every = torch.arange(len(slot), device=slot.device)
        new = new.to(slots.dtype)
        for condition in (self.running, rows):
            if condition is not None:
                new = torch.where(_like(condition, new), new, slots[every, slot])
        slots.index_put_((every, slot), new)

    def replace_(self, old: Tensor, new: Tensor, rows: Tensor | None = None) -> None:
        """old [B, ...] = new where a row is running and, if given, one of `rows` [B]."""
        for condition in (self.running, rows):
            if condition is not None:
                new = torch.where(_like(condition, old), new, old)
        old.copy_(new)


def _like(rows: Tensor, x: Tensor) -> Tensor:
    """rows [B] for where() beside x [B, ...]."""
    return rows.view(-1, *([1] * (x.dim() - 1)))

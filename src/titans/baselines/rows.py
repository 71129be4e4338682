"""Baselines on documents that begin anywhere, as the batches of text have them."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from titans.baselines.model import BaselineLM
from titans.baselines.state import BaselineState


class RowByRow(nn.Module):
    """Reads with a `BaselineLM` one row after the other, and each only as far as the next document (a `Reader`).

    A model of transformers cannot forget in the middle of a call, and its rows begin together. So the states are apart
    here, one for each row.
    """

    def __init__(self, model: BaselineLM) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        tokens: Tensor,
        state: tuple[BaselineState, ...] | None = None,
        reset: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> tuple[Tensor, tuple[BaselineState, ...]]:
        """As `BaselineLM.forward`, with documents that begin at any token of any row, and a state for each row."""
        starts = torch.zeros_like(tokens, dtype=torch.bool) if reset is None else reset.bool()
        rows = [
            self._read(tokens[row], None if state is None else state[row], starts[row]) for row in range(len(tokens))
        ]
        return torch.stack([logits[-logits_to_keep:] for logits, _ in rows]), tuple(after for _, after in rows)

    def _read(self, tokens: Tensor, state: BaselineState | None, starts: Tensor) -> tuple[Tensor, BaselineState]:
        """One row: tokens [T], starts [T]. Returns logits [T, V] and the state after the last token."""
        edges = sorted({0, *starts.nonzero().flatten().tolist(), len(tokens)})
        logits: list[Tensor] = []
        for start, stop in pairwise(edges):
            predicted, state = self.model(tokens[None, start:stop], None if starts[start] else state)
            logits.append(predicted[0])
        assert state is not None
        return torch.cat(logits), state

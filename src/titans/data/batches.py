"""Documents as batches for training with a carried state.

Letters: B rows, T tokens per row (the window's length).

Each of the B rows reads a sequence of documents. A document longer than the window continues in the same row of the
next batch, where the model goes on from the state it carried; when a document ends the next one begins in the same
window, marked by `reset`:

    row 0, batch 0   | d o c 1 . . . |        row 0, batch 1   | . . 1 d o c 4 . |
    reset            | 1 0 0 0 0 0 0 |        reset            | 0 0 0 1 0 0 0 0 |
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from titans.errors import TitansError

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """One window of every row."""

    tokens: Tensor
    """[B, T] int64"""
    labels: Tensor
    """[B, T] int64: the next token of the same document; -100 (ignored) where there is none"""
    reset: Tensor
    """[B, T] bool: a document starts here"""
    weights: Tensor | None = None
    """[B, T] float32: how much each label counts in the loss; None: all the same"""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        weights = None if self.weights is None else self.weights.to(device)
        return Batch(self.tokens.to(device), self.labels.to(device), self.reset.to(device), weights)


class BatchSource(Protocol):
    """Anything that yields batches and can say where it is."""

    def next(self) -> Batch:
        """The next batch; StopIteration after the last one."""
        ...

    def state_dict(self) -> dict:
        """The position, as something JSON can hold."""
        ...

    def load_state_dict(self, state: dict) -> None:
        """Goes on from where `state_dict` was taken, bit for bit."""
        ...


class TokenDocument(Protocol):
    """A document whose tokens can be read piece by piece."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def tokens(self, start: int, stop: int) -> np.ndarray: ...


class DocumentBatches:
    """Batches over documents, in an order that `seed` shuffles anew in every epoch.

    The rows share one queue of documents, and only the windows asked for are read: memory does not grow with the text.

    Args:
        documents: the documents, none of them empty.
        batch_size: rows, B.
        length: tokens per row and batch, T.
        seed: the order of the documents.
        epochs: passes over the documents; None goes on for ever. After the last document a row is filled up with
            tokens 0 that have no label, and `next` raises StopIteration once no row has anything left.

    Raises:
        ValueError: there is no document, one is empty, or a size is below 1.
    """

    def __init__(
        self,
        documents: Sequence[TokenDocument],
        batch_size: int,
        length: int,
        seed: int = 0,
        *,
        epochs: int | None = None,
    ) -> None:
        if not documents or min(map(len, documents)) < 1:
            raise ValueError("documents must hold at least one document, and none of them may be empty")
        for name, value in (("batch_size", batch_size), ("length", length)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        self._documents = documents
        self._length = length
        self._seed = seed
        self._epochs = epochs
        self._epoch = 0
        self._position = 0
        self._order = self._shuffled(0)
        # Per row the document being read and how far, or None before the first and after the last.
        self._rows: list[tuple[int, int] | None] = [None] * batch_size

    def next(self) -> Batch:
        """The next batch; StopIteration when the last epoch is over."""
        shape = (len(self._rows), self._length)
        tokens = np.zeros(shape, dtype=np.int64)
        labels = np.full(shape, IGNORED, dtype=np.int64)
        reset = np.zeros(shape, dtype=bool)
        filled = [self._fill(row, tokens[row], labels[row], reset[row]) for row in range(len(self._rows))]
        if not any(filled):
            raise StopIteration
        return Batch(torch.from_numpy(tokens), torch.from_numpy(labels), torch.from_numpy(reset))

    def state_dict(self) -> dict:
        """The cursor: epoch, place in its order, the document and offset of every row."""
        return {
            "documents": self._fingerprint(),
            "epoch": self._epoch,
            "position": self._position,
            "rows": [list(row) if row else None for row in self._rows],
        }

    def load_state_dict(self, state: dict) -> None:
        """Goes on from a `state_dict` of the same documents, sizes and seed.

        Raises:
            TitansError: the documents, the seed or a size differ from those the cursor was made with.
            ValueError: it is at no place of them.
        """
        if state["documents"] != self._fingerprint():
            raise TitansError(
                "the text (or the seed, batch size or length) is not the one the checkpoint was made with: restore it, "
                "or start a new run"
            )
        epoch, position, rows = state["epoch"], state["position"], state["rows"]
        if len(rows) != len(self._rows) or epoch < 0 or not 0 <= position <= len(self._documents):
            raise ValueError("its place in the text is none")
        for index, offset in filter(None, rows):
            if not (0 <= index < len(self._documents) and 0 <= offset < len(self._documents[index])):
                raise ValueError("its place in a document is none")
        self._epoch, self._position = epoch, position
        self._order = self._shuffled(self._epoch)
        self._rows = [(row[0], row[1]) if row else None for row in rows]

    def _fill(self, row: int, tokens: np.ndarray, labels: np.ndarray, reset: np.ndarray) -> int:
        """Fills one row's window, each array [T], and returns how many tokens it got."""
        filled = 0
        while filled < self._length:
            current = self._rows[row] or self._next_document()
            if current is None:
                reset[filled] = True
                break
            index, offset = current
            document = self._documents[index]
            count = min(self._length - filled, len(document) - offset)
            # One token more than the window shows, where there is one: the last label.
            piece = document.tokens(offset, min(offset + count + 1, len(document)))
            tokens[filled : filled + count] = piece[:count]
            labels[filled : filled + len(piece) - 1] = piece[1:]
            reset[filled] = offset == 0
            filled += count
            self._rows[row] = (index, offset + count) if offset + count < len(document) else None
        return filled

    def _next_document(self) -> tuple[int, int] | None:
        if self._position == len(self._documents):
            self._epoch += 1
            self._position = 0
            self._order = self._shuffled(self._epoch)
        if self._epoch == self._epochs:
            return None
        self._position += 1
        return int(self._order[self._position - 1]), 0

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._documents))

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self._seed}/{len(self._rows)}/{self._length}/{self._epochs}".encode())
        for document in self._documents:
            digest.update(f"{document.name}/{len(document)}\n".encode("utf-8", errors="surrogateescape"))
        return digest.hexdigest()


class MixedBatches:
    """The rows of several sources under each other (a `BatchSource`)."""

    def __init__(self, sources: Sequence[BatchSource]) -> None:
        self._sources = sources

    def next(self) -> Batch:
        """The next batch of every source; StopIteration when one has ended."""
        parts = [source.next() for source in self._sources]
        weights = [torch.ones(part.tokens.shape) if part.weights is None else part.weights for part in parts]
        return Batch(
            torch.cat([part.tokens for part in parts]),
            torch.cat([part.labels for part in parts]),
            torch.cat([part.reset for part in parts]),
            torch.cat(weights),
        )

    def state_dict(self) -> dict:
        """The positions of all sources."""
        return {"sources": [source.state_dict() for source in self._sources]}

    def load_state_dict(self, state: dict) -> None:
        """Goes on from a `state_dict` of the same sources."""
        for source, saved in zip(self._sources, state["sources"], strict=True):
            source.load_state_dict(saved)

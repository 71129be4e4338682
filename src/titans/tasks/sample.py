"""A sample of a task: tokens to read, and labels where an answer is due; however long it is, it is read in pieces.

The label of a position is what a model has to say after the token there. In a text that states its answer this is the
next token; in a task like associative recall it never appears in the stream.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from titans.data.batches import IGNORED, TokenDocument

_NOTHING = np.empty(0, np.int64)


@dataclass(frozen=True)
class Piece:
    """Tokens and their labels."""

    tokens: np.ndarray
    """[n] int64"""
    labels: np.ndarray
    """[n] int64; -100 where nothing is asked"""

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, start: int, stop: int) -> "Piece":
        """Tokens `start` to `stop`."""
        return Piece(self.tokens[start:stop], self.labels[start:stop])


@dataclass(frozen=True)
class Stretch:
    """Tokens `start` to `stop` of a document, about which nothing is asked. Only what is read is loaded."""

    document: TokenDocument
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def read(self, start: int, stop: int) -> Piece:
        """Tokens `start` to `stop` of the stretch."""
        return unasked(self.document.tokens(self.start + start, self.start + stop))


class Part(Protocol):
    """Something that samples are made of: a `Piece`, a `Stretch`, or what is made as it is read."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> Piece:
        """Tokens `start` to `stop`."""
        ...


@dataclass(frozen=True)
class First:
    """The first `length` tokens of a part (a `Part`)."""

    part: Part
    length: int

    def __len__(self) -> int:
        return self.length

    def read(self, start: int, stop: int) -> Piece:
        """Tokens `start` to `stop`."""
        return self.part.read(start, stop)


@dataclass(frozen=True)
class Sample:
    """One stream with its questions."""

    parts: tuple[Part, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def pieces(self, size: int) -> Iterator[Piece]:
        """The whole stream, `size` tokens at a time; the last piece may be shorter."""
        pending: list[Piece] = []
        missing = size
        for part in self.parts:
            at = 0
            while at < len(part):
                stop = min(len(part), at + missing)
                pending.append(part.read(at, stop))
                missing, at = missing - (stop - at), stop
                if missing == 0:
                    yield joined(pending)
                    pending, missing = [], size
        if pending:
            yield joined(pending)

    def whole(self) -> Piece:
        """All of it at once, for samples that are short."""
        return next(self.pieces(len(self)))


class Task(Protocol):
    """Something to be asked. Equal arguments give equal samples."""

    @property
    def vocab_size(self) -> int:
        """Ids of tokens and labels are below it."""
        ...

    @property
    def shortest(self) -> int:
        """Tokens of the shortest sample that the task can make."""
        ...

    def sample(self, length: int, random: np.random.Generator) -> Sample:
        """One of exactly `length` tokens.

        Raises:
            TitansError: `length` is below `shortest`.
        """
        ...


@dataclass(frozen=True)
class Mixed:
    """Several tasks with the same tokens; every sample is one of any of them (a `Task`)."""

    tasks: tuple[Task, ...]

    @property
    def vocab_size(self) -> int:
        return self.tasks[0].vocab_size

    @property
    def shortest(self) -> int:
        return max(task.shortest for task in self.tasks)

    def sample(self, length: int, random: np.random.Generator) -> Sample:
        """One of exactly `length` tokens."""
        return self.tasks[int(random.integers(len(self.tasks)))].sample(length, random)


def unasked(tokens: np.ndarray) -> Piece:
    """Tokens [n] about which nothing is asked."""
    return Piece(tokens, np.full(len(tokens), IGNORED, np.int64))


def stated(question: np.ndarray, answer: np.ndarray, then: np.ndarray = _NOTHING) -> Piece:
    """A question and its answer as text: each token of the answer is the label of the token before it.

    Args:
        then: what follows. If it is nothing, the answer's last token is only a label: the piece has one token less than
            question and answer together.
    """
    tokens = np.concatenate([question, answer, then])
    labels = np.full(len(tokens), IGNORED, np.int64)
    begin = len(question) - 1
    labels[begin : begin + len(answer)] = answer
    size = len(tokens) if len(then) else len(tokens) - 1
    return Piece(tokens[:size], labels[:size])


def joined(pieces: list[Piece]) -> Piece:
    """One after the other."""
    if len(pieces) == 1:
        return pieces[0]
    return Piece(np.concatenate([p.tokens for p in pieces]), np.concatenate([p.labels for p in pieces]))

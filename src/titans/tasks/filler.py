"""Text to hide things in."""

from collections.abc import Iterator, Sequence

import numpy as np

from titans.data.batches import TokenDocument
from titans.tasks.sample import Piece, Stretch

_SHORTEST_GAP = 8


class Repeated:
    """A document without an end: the same tokens over and over (a `TokenDocument`)."""

    name = "repeated"

    def __init__(self, period: np.ndarray) -> None:
        self._period = period

    def __len__(self) -> int:
        return 2**62

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Tokens `start` to `stop` [stop - start] int64."""
        return self._period[np.arange(start, stop) % len(self._period)]


class Filler:
    """Random stretches of documents."""

    def __init__(self, documents: Sequence[TokenDocument]) -> None:
        """documents: at least one; a long one is taken more often than a short one."""
        if not documents:
            raise ValueError("documents is empty: something can only be hidden in at least one")
        lengths = np.array([len(document) for document in documents], dtype=np.float64)
        self._documents, self._shares = documents, lengths / lengths.sum()

    def stretch(self, length: int, random: np.random.Generator) -> list[Stretch]:
        """`length` tokens: of one document, or of several where one is too short."""
        pieces, missing = [], length
        while missing > 0:
            document = self._documents[int(random.choice(len(self._documents), p=self._shares))]
            start = int(random.integers(max(1, len(document) - missing + 1)))
            pieces.append(Stretch(document, start, min(start + missing, len(document))))
            missing -= len(pieces[-1])
        return pieces


class Lines(Filler):
    """The same line over and over."""

    def __init__(self, line: np.ndarray) -> None:
        """line: its tokens [n] int64."""
        self._lines, self._period = Repeated(line), len(line)
        super().__init__([self._lines])

    def broken_at(self, cut: int, length: int) -> Stretch:
        """`length` tokens in which a line begins after the first `cut`."""
        start = -cut % self._period
        return Stretch(self._lines, start, start + length)


def split(stretches: Sequence[Stretch], at: int) -> tuple[list[Stretch], list[Stretch]]:
    """What comes before token `at`, and what comes from there on."""
    before: list[Stretch] = []
    after: list[Stretch] = []
    for stretch in stretches:
        cut = stretch.start + min(max(0, at), len(stretch))
        before += [Stretch(stretch.document, stretch.start, cut)] if cut > stretch.start else []
        after += [Stretch(stretch.document, cut, stretch.stop)] if cut < stretch.stop else []
        at -= len(stretch)
    return before, after


def hidden(stretches: Sequence[Stretch], pieces: Sequence[Piece], cuts: Sequence[int]) -> list[Piece | Stretch]:
    """The stretches with piece i after their token `cuts[i]`; of those in one place the first comes first."""
    parts: list[Piece | Stretch] = []
    rest, done = list(stretches), 0
    for cut, number in sorted(zip(cuts, range(len(pieces)), strict=True)):
        before, rest = split(rest, cut - done)
        parts += [*before, pieces[number]]
        done = cut
    return [*parts, *rest]


def gaps(room: int, taken: int, random: np.random.Generator) -> Iterator[int]:
    """Lengths of text, one for each of the questions of `taken` tokens that `room` tokens have place for.

    Every octave of them is as likely as another. What is left in the end is less than a question.
    """
    while room >= taken:
        most = room - taken
        gap = min(most, int(np.exp(random.uniform(np.log(_SHORTEST_GAP), np.log(max(_SHORTEST_GAP, most))))))
        yield gap
        room = most - gap

"""Long streams that are made block by block as they are read."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from titans.tasks.sample import Part, Piece, joined

BLOCK = 16_384  # units, such as a pair of a key and a value, that are made at once

Make = Callable[[int, int, np.random.Generator], Piece]
"""The tokens of some units, from the number of those before them, how many there are and random numbers.

Blocks are made in their order at first. Made again, a block has to be the same, whatever has been made since.
"""


def in_blocks(make: Make, units: int, random: np.random.Generator, *, width: int | None) -> Part:
    """So many units, of which no more than a block is ever there at once.

    width: tokens of a unit; None: they differ, and all are made once to know how many there are.
    """
    if units <= BLOCK:
        return make(0, units, random)
    return _Blocks(make, units, width, int(random.integers(2**63)))


@dataclass(frozen=True)
class Later:
    """Tokens that are not known before they are read (a `Part`)."""

    length: int
    make: Callable[[], Piece]

    def __len__(self) -> int:
        return self.length

    def read(self, start: int, stop: int) -> Piece:
        """Tokens `start` to `stop`."""
        return self.make().read(start, stop)


class _Blocks:
    """More than one block (a `Part`); what is kept is where each begins, and the last one that was read."""

    def __init__(self, make: Make, units: int, width: int | None, seed: int) -> None:
        self._make, self._units, self._seed = make, units, seed
        self._block = lru_cache(maxsize=1)(self._made)
        self._begins = [0]  # tokens before each block that was made, and before the next
        for number in range(-(-units // BLOCK) if width is None else 0):
            self._made(number)
        self._length = self._begins[-1] if width is None else units * width

    def __len__(self) -> int:
        return self._length

    def read(self, start: int, stop: int) -> Piece:
        """Tokens `start` to `stop`."""
        while self._begins[-1] <= start < self._length:
            self._block(len(self._begins) - 1)
        pieces, number = [], bisect_right(self._begins, start, hi=len(self._begins) - 1) - 1
        while not pieces or start < min(stop, self._length):
            block, begin = self._block(number), self._begins[number]
            pieces.append(block.read(start - begin, stop - begin))
            start, number = begin + len(block), number + 1
        return joined(pieces)

    def _made(self, number: int) -> Piece:
        before = number * BLOCK
        random = np.random.default_rng([self._seed, number])
        block = self._make(before, min(BLOCK, self._units - before), random)
        if number + 1 == len(self._begins):
            self._begins.append(self._begins[-1] + len(block))
        return block

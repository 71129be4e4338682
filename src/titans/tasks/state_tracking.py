"""State tracking: tokens are elements of a group, and after each of them the product of all so far is asked for.

    S3, A5, S5          permutations of 3 or 5 things (A5: the even ones); 6, 60 and 120 elements
    counting modulo m   increments, whose sum is asked for modulo m; with m = 2 this is parity

S5's and A5's word problems are complete for NC1, and what transformers and state-space models with diagonal transitions
compute lies in TC0: unless the two are equal, no such model solves them at every length (Merrill et al. 2024, arXiv
2404.08819). Linear recurrences with transitions I - beta k k^T need beta up to 2, that is negative eigenvalues, for
parity already (Grazzi et al. 2025, arXiv 2411.12537). Train on lengths such as 32 to 64, evaluate on 512 and more.

Convention: a permutation p takes the thing in place i to place p[i], and what comes first acts first: the label after
x_1 ... x_t is the permutation i -> x_t[... x_2[x_1[i]]]. (In the other order the same task arises, with every element
named as its inverse.) Elements are numbered in lexicographic order of (p[0], p[1], ...), so that 0 is the identity.
"""

from dataclasses import dataclass
from functools import cache
from itertools import accumulate, permutations
from typing import Literal

import numpy as np

from titans.parsing import check_types, require
from titans.tasks.checks import require_length
from titans.tasks.sample import Piece, Sample

Group = Literal["S3", "A5", "S5"]


@dataclass(frozen=True, kw_only=True)
class WordProblem:
    """The word problem of a permutation group (a `Task`): every element is as likely as another, at each place."""

    group: Group = "S5"

    def __post_init__(self) -> None:
        check_types(self)

    @property
    def vocab_size(self) -> int:
        return len(elements(self.group))

    @property
    def shortest(self) -> int:
        return 1

    def sample(self, length: int, random: np.random.Generator) -> Sample:
        """`length` elements, each with the product up to it.

        Raises:
            TitansError: length is below 1.
        """
        require_length(self, length)
        tokens, then = random.integers(self.vocab_size, size=length), _products(self.group)
        # Lists, as looking up one number in an array takes many times as long.
        labels = list(accumulate(tokens.tolist(), lambda so_far, x: then[so_far][x]))
        return Sample((Piece(tokens, np.array(labels, np.int64)),))


@dataclass(frozen=True, kw_only=True)
class ModularCounting:
    """Counting modulo m (a `Task`): increments from 0 to m - 1, and their sum so far."""

    modulus: int = 5

    def __post_init__(self) -> None:
        check_types(self)
        require(self, "modulus", self.modulus >= 2, "at least 2")

    @property
    def vocab_size(self) -> int:
        return self.modulus

    @property
    def shortest(self) -> int:
        return 1

    def sample(self, length: int, random: np.random.Generator) -> Sample:
        """`length` increments, each with the sum up to it.

        Raises:
            TitansError: length is below 1.
        """
        require_length(self, length)
        tokens = random.integers(self.modulus, size=length)
        return Sample((Piece(tokens, tokens.cumsum() % self.modulus),))


def parity() -> ModularCounting:
    """Whether the number of ones so far is odd."""
    return ModularCounting(modulus=2)


@cache
def elements(group: Group) -> np.ndarray:
    """The permutations p of a group [N, n], in the order of their tokens: p[i] is where the thing in place i goes."""
    every = np.array(list(permutations(range(int(group[1])))))
    if group[0] == "S":
        return every
    larger_first = np.triu(every[:, :, None] > every[:, None, :])
    return every[larger_first.sum((1, 2)) % 2 == 0]


@cache
def _products(group: Group) -> list[list[int]]:
    """then[a][b]: first a, then b [N, N]."""
    each = elements(group)
    then = np.stack([each[:, a] for a in each])  # b[a[i]] [N, N, n]
    digits = len(each[0]) ** np.arange(len(each[0]))[::-1]  # as numbers with these digits the elements are sorted
    return np.searchsorted(each @ digits, then @ digits).tolist()

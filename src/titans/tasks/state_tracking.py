"""State tracking: tokens are elements of a group, and after each of them the product of all so far is asked for.

    S3, A5, S5          permutations of 3 or 5 things (A5: the even ones); 6, 60 and 120 elements
    counting modulo m   increments, whose sum is asked for modulo m; with m = 2 this is parity

An element may be told in several tokens of its own, a first part, a second part and so on, with the question after the
last. A memory that can turn its values round once per token needs as many as its group's elements take reflections: two
for S3 (Siems et al. 2025, arXiv 2502.10297, take several steps per token instead).

    tokens_each = 2     x y z   ->   tokens  x' x" y' y" z' z"     labels  - x - xy - xyz

S5's and A5's word problems are complete for NC1, and what transformers and state-space models with diagonal transitions
compute lies in TC0: unless the two are equal, no such model solves them at every length (Merrill et al. 2024, arXiv
2404.08819). Linear recurrences with transitions I - beta k k^T need beta up to 2, that is negative eigenvalues, for
parity already (Grazzi et al. 2025, arXiv 2411.12537). Train on lengths such as 32 to 64, evaluate on 512 and more.

Convention: a permutation p takes the thing in place i to place p[i], and what comes first acts first: the label after
x_1 ... x_t is the permutation i -> x_t[... x_2[x_1[i]]]. (In the other order the same task arises, with every element
named as its inverse.) Elements are numbered in lexicographic order of (p[0], p[1], ...), so that 0 is the identity.

Ours: elements are drawn anew for every word, no token marks its beginning, and it may be longer than those of training
(2404.08819's code splits distinct words of one length, beside all shorter ones to train on). Parity and counting are
asked for after every element too, where 2411.12537 asks once, at the end, and its modular arithmetic is about
expressions.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, permutations
from typing import Literal

import numpy as np

from titans.data.batches import IGNORED
from titans.parsing import check_types, require
from titans.tasks.blocks import in_blocks
from titans.tasks.checks import require_length
from titans.tasks.sample import First, Piece, Sample

Group = Literal["S3", "A5", "S5"]


@dataclass(frozen=True, kw_only=True)
class _Words(ABC):
    """What all of them have in common (a `Task`): every element is as likely as another, at each place."""

    tokens_each: int = 1
    """in how many tokens an element is told"""

    def __post_init__(self) -> None:
        check_types(self)
        require(self, "tokens_each", self.tokens_each >= 1, "at least 1")

    @property
    @abstractmethod
    def size(self) -> int:
        """Elements of the group."""

    @abstractmethod
    def products(self, so_far: int, told: np.ndarray) -> np.ndarray:
        """The product after each element told [n], of `so_far` and those up to it [n] int64."""

    @property
    def vocab_size(self) -> int:
        return self.size * self.tokens_each

    @property
    def shortest(self) -> int:
        """One element."""
        return self.tokens_each

    def sample(self, length: int, random: np.random.Generator) -> Sample:
        """`length` tokens: elements, each with the product up to it; the last may be told in part.

        Raises:
            TitansError: length is below `shortest`.
        """
        require_length(self, length)
        products = {0: 0}  # before each block

        def elements_and_products(before: int, count: int, random: np.random.Generator) -> Piece:
            told = random.integers(self.size, size=count)
            found = self.products(products[before], told)
            products[before + count] = int(found[-1])
            return self.asked(told, found)

        word = in_blocks(elements_and_products, -(-length // self.tokens_each), random, width=self.tokens_each)
        return Sample((First(word, length),))

    def asked(self, told: np.ndarray, products: np.ndarray) -> Piece:
        """The tokens of elements [n], and after each the product as a label [n * tokens_each]."""
        each = self.tokens_each
        labels = np.full(len(told) * each, IGNORED, np.int64)
        labels[each - 1 :: each] = products
        return Piece((told[:, None] + self.size * np.arange(each)).reshape(-1), labels)


@dataclass(frozen=True, kw_only=True)
class WordProblem(_Words):
    """The word problem of a permutation group."""

    group: Group = "S5"

    @property
    def size(self) -> int:
        return len(elements(self.group))

    def products(self, so_far: int, told: np.ndarray) -> np.ndarray:
        then = _products(self.group)
        # Lists, as looking up one number in an array takes many times as long.
        found = accumulate(told.tolist(), lambda before, x: then[before][x], initial=so_far)
        return np.array(list(found)[1:], np.int64)


@dataclass(frozen=True, kw_only=True)
class ModularCounting(_Words):
    """Counting modulo m: increments from 0 to m - 1, and their sum so far."""

    modulus: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "modulus", self.modulus >= 2, "at least 2")

    @property
    def size(self) -> int:
        return self.modulus

    def products(self, so_far: int, told: np.ndarray) -> np.ndarray:
        return (so_far + told.cumsum()) % self.modulus


def parity(tokens_each: int = 1) -> ModularCounting:
    """Whether the number of ones so far is odd."""
    return ModularCounting(modulus=2, tokens_each=tokens_each)


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

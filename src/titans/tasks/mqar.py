"""Multi-query associative recall: pairs of a key and a value first, then the keys again, each at its own distance.

    tokens    k1 v1 k2 v2  .  .  k2 .  .  .  k1 .        (two pairs; the dots are filler)
    labels    -  -  -  -   -  -  v2 -  -  -  v1 -        (the values are asked for, but not shown again)

From Zoology (Arora et al. 2023, arXiv 2312.04927, and the code published with it): keys from the lower half of the
vocabulary without token 0, values from the upper half, none twice in a sample; every key is asked for once, two tokens
or a multiple of it after the last pair; how many follows a power law, drawn for one key after the other; the filler is
random tokens of the whole vocabulary, or token 0, as in the paper's own experiments. Its accuracy is what a score's
`tokens_right` is. Ours: odd lengths (the last token is filler), and vocabularies that are smaller than the sample is
long.
"""

from dataclasses import dataclass

import numpy as np

from titans.data.batches import IGNORED
from titans.parsing import check_types, require
from titans.tasks.blocks import in_blocks
from titans.tasks.checks import require_length
from titans.tasks.sample import Piece, Sample


@dataclass(frozen=True, kw_only=True)
class MQAR:
    """Multi-query associative recall (a `Task`). The defaults are those of Zoology's code."""

    vocab_size: int = 8192
    num_pairs: int = 8
    power_a: float = 0.01
    """the i-th place for a query is as likely as i^(power_a - 1): near 0 most are early, at 1 all places are equal"""
    random_filler: bool = True
    """random tokens between the queries, keys and values among them; off: token 0"""

    def __post_init__(self) -> None:
        check_types(self)
        most = self.vocab_size // 2 - 1
        require(self, "vocab_size", most >= 1, "at least 4: one key and one value beside token 0")
        holds = 1 <= self.num_pairs <= most
        require(self, "num_pairs", holds, f"from 1 to {most}, the keys of vocab_size {self.vocab_size}")
        require(self, "power_a", 0 < self.power_a <= 1, "above 0 and at most 1")

    @property
    def shortest(self) -> int:
        """With no filler but one token after each query."""
        return 4 * self.num_pairs

    def sample(self, length: int, random: np.random.Generator) -> Sample:
        """`length` tokens: the pairs, then the queries among filler.

        Raises:
            TitansError: the pairs and their queries do not fit into so few tokens.
        """
        require_length(self, length)
        first_value, end = self.vocab_size // 2, 2 * self.num_pairs
        keys = 1 + random.choice(first_value - 1, self.num_pairs, replace=False)
        values = first_value + random.choice(self.vocab_size - first_value, self.num_pairs, replace=False)
        num_places = (length - end) // 2
        shares = np.arange(1, num_places + 1) ** (self.power_a - 1.0)
        queries = end + 2 * random.choice(num_places, self.num_pairs, replace=False, p=shares / shares.sum())
        told = np.stack([keys, values], 1).ravel()

        def block(before: int, count: int, random: np.random.Generator) -> Piece:
            tokens = random.integers(self.vocab_size, size=count) if self.random_filler else np.zeros(count, np.int64)
            labels = np.full(count, IGNORED, np.int64)
            begin = told[before : before + count]
            tokens[: len(begin)] = begin
            here = (queries >= before) & (queries < before + count)
            tokens[queries[here] - before], labels[queries[here] - before] = keys[here], values[here]
            return Piece(tokens, labels)

        return Sample((in_blocks(block, length, random, width=1),))

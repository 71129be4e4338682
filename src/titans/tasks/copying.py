"""Selective copying: some tokens lie scattered among blanks, and are to be said in their order at the end.

    tokens    .  a  .  .  b  .  c  .  #  #  #
    labels    -  -  -  -  -  -  -  -  a  b  c

From Mamba (Gu & Dao 2023, arXiv 2312.00752), where a sample has 4,096 tokens. MAD (Poli et al. 2024,
arXiv 2403.17844) has the same task with one marker and then blanks at which the answers are due. The blank is 0, the
marker the last token, as in the code published with S4 (Gu et al. 2022, arXiv 2111.00396). Ours: those 4,096 are all
tokens of a sample, markers too.
"""

from dataclasses import dataclass

import numpy as np

from titans.parsing import check_types, require
from titans.tasks.checks import require_length
from titans.tasks.filler import Repeated, hidden
from titans.tasks.sample import Piece, Sample, Stretch, unasked

BLANK = 0


@dataclass(frozen=True, kw_only=True)
class SelectiveCopying:
    """Selective copying (a `Task`). The defaults are Mamba's."""

    vocab_size: int = 16
    """blank and marker included"""
    num_tokens: int = 16
    """what is to be copied; the same token may come more than once"""

    def __post_init__(self) -> None:
        check_types(self)
        expected = "at least 3: a blank, a marker and something to copy"
        require(self, "vocab_size", self.vocab_size >= 3, expected)
        require(self, "num_tokens", self.num_tokens >= 1, "at least 1")

    @property
    def marker(self) -> int:
        """At the n-th of these the n-th token is asked for."""
        return self.vocab_size - 1

    @property
    def shortest(self) -> int:
        """Without any blank."""
        return 2 * self.num_tokens

    def sample(self, length: int, random: np.random.Generator) -> Sample:
        """`length` tokens: what is to be copied, anywhere among blanks, and as many markers.

        Raises:
            TitansError: the tokens and their markers do not fit into so few.
        """
        require_length(self, length)
        end = length - self.num_tokens
        copied = random.integers(BLANK + 1, self.marker, size=self.num_tokens)
        places = np.sort(random.choice(end, self.num_tokens, replace=False))
        blanks = Stretch(Repeated(np.array([BLANK])), 0, end - self.num_tokens)
        before = places - np.arange(self.num_tokens)  # blanks before each token
        scattered = hidden([blanks], [unasked(token) for token in np.split(copied, self.num_tokens)], before.tolist())
        return Sample((*scattered, Piece(np.full(self.num_tokens, self.marker), copied)))

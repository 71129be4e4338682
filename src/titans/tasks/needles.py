"""Needles in a haystack: RULER's single-needle tasks with their prompts, and those with several keys or values.

    pk  one key, a number of seven digits, in a few sentences said again and again    (niah_single_1)
    n   the same in real text                                                         (niah_single_2)
    w   one key, a UUID, in real text                                                 (niah_single_3)
    mk  four keys with a number each, one of which is asked for, in real text         (niah_multikey_1)
    mv  one key with four numbers, all asked for, in real text                        (niah_multivalue)

From RULER (Hsieh et al. 2024, arXiv 2404.06654): kinds, noise, wording of needles and questions. Ours: the words that
keys are made of, that needles may lie between any two tokens and not only between sentences, and that several values
have to be given in the order in which they were stated.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from titans.data.batches import TokenDocument
from titans.data.tokenizer import ByteTokenizer, Tokenizer
from titans.errors import TitansError
from titans.tasks.filler import Filler, Repeated, split
from titans.tasks.sample import Piece, Sample, Stretch, stated, unasked

Kind = Literal["pk", "n", "w", "mk", "mv"]
KINDS: tuple[Kind, ...] = ("pk", "n", "w", "mk", "mv")
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
SEVERAL = 4  # keys of mk, values of mv

_ADJECTIVES, _NOUNS = (line.split() for line in (Path(__file__).parent / "words.txt").read_text().splitlines())


@dataclass(frozen=True, kw_only=True)
class Needles:
    """A task of one kind (a `Task`)."""

    kind: Kind
    filler: Filler
    """what hides the needles; for pk `noise()`"""
    tokenizer: Tokenizer = ByteTokenizer()  # noqa: RUF009 (it has no state)
    depth: float | None = None
    """where the needle that is asked for lies, 0 at the text's beginning, 1 at its end; None: anywhere"""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"Needles.kind is {self.kind!r}; it must be one of {', '.join(KINDS)}")
        if self.depth is not None and not 0 <= self.depth <= 1:
            raise ValueError(f"Needles.depth is {self.depth}; it must be from 0 to 1")

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def shortest(self) -> int:
        """With the longest words and no filler at all."""
        longest = f"{max(_ADJECTIVES, key=len)}-{max(_NOUNS, key=len)}"
        values = ["0" * 36 if self.kind == "w" else "0" * 7] * (SEVERAL if self.kind == "mv" else 1)
        needles = [(longest, value) for value in values] + [(longest, "0" * 7)] * (3 if self.kind == "mk" else 0)
        return sum(map(len, self._parts(longest, values, needles)))

    def sample(self, length: int, random: np.random.Generator) -> Sample:
        """`length` tokens: what is to come, the haystack with its needles, the question and its answer.

        Raises:
            TitansError: the needles do not fit into so few tokens.
        """
        key, *others = _distinct_keys(SEVERAL if self.kind == "mk" else 1, random)
        values = [_value(self.kind, random) for _ in range(SEVERAL if self.kind == "mv" else 1)]
        needles = [(key, value) for value in values] + [(other, _value(self.kind, random)) for other in others]
        opening, *needle_pieces, end = self._parts(key, values, needles)
        hay = length - len(opening) - sum(map(len, needle_pieces)) - len(end)
        if hay < 0:
            raise TitansError(
                f"{length} tokens are too few for a sample of the needle task {self.kind!r}: it takes {self.shortest}"
            )
        places = random.uniform(size=len(needle_pieces)) if self.depth is None else self._at_depth(random, len(needles))
        if self.kind == "mv":
            places.sort()  # the values are asked for in the order in which they stand
        cuts = sorted(zip((places * hay).round().astype(int).tolist(), range(len(places)), strict=True))
        parts: list[Piece | Stretch] = [opening]
        rest = self.filler.stretch(hay, random)
        for (before, _), (here, number) in pairwise([(0, -1), *cuts]):
            stretches, rest = split(rest, here - before)
            parts += [*stretches, needle_pieces[number]]
        return Sample((*parts, *rest, end))

    def _at_depth(self, random: np.random.Generator, count: int) -> np.ndarray:
        """Places of the needles: what is asked for at `depth`, distractors anywhere."""
        places = random.uniform(size=count)
        places[: SEVERAL if self.kind == "mv" else 1] = self.depth
        return places

    def _parts(self, key: str, values: Sequence[str], needles: Sequence[tuple[str, str]]) -> list[Piece]:
        """All but the haystack: the opening, the needles, the question with its answer."""
        several = len(values) > 1
        what = ("uuid" if self.kind == "w" else "number") + "s" * several
        be = "are" if several else "is"
        opening = (
            f"{'Some' if several else 'A'} special magic {what} {be} hidden within the following text. Make sure to "
            f"memorize it. I will quiz you about the {what} afterwards.\n"
        )
        asked = f"the special magic {what} for {key} mentioned in the provided text"
        question = f"\nWhat {be} {'all ' * several}{asked}? {asked[0].upper()}{asked[1:]} {be}"
        singular = what.removesuffix("s")
        pieces = [unasked(self._encode(f" One of the special magic {singular}s for {k} is: {v}. ")) for k, v in needles]
        answer = " " + ", ".join(values)
        return [
            unasked(self._encode(opening)),
            *pieces,
            stated(self._encode(question), self._encode(answer + ".")),
        ]

    def _encode(self, text: str) -> np.ndarray:
        return self.tokenizer.encode(text)


def noise(tokenizer: Tokenizer = ByteTokenizer()) -> Filler:  # noqa: B008 (it has no state)
    """RULER's noise: five short sentences without end."""
    return Filler([Repeated(tokenizer.encode(NOISE))])


def needles(
    kind: Kind,
    haystack: Sequence[TokenDocument],
    tokenizer: Tokenizer = ByteTokenizer(),  # noqa: B008
) -> Needles:
    """The task of a kind; haystack: documents in the tokenizer's tokens, which pk has no need of."""
    filler = noise(tokenizer) if kind == "pk" else Filler(haystack)
    return Needles(kind=kind, filler=filler, tokenizer=tokenizer)


def _distinct_keys(count: int, random: np.random.Generator) -> list[str]:
    numbers = random.choice(len(_ADJECTIVES) * len(_NOUNS), count, replace=False)
    return [f"{_ADJECTIVES[n // len(_NOUNS)]}-{_NOUNS[n % len(_NOUNS)]}" for n in numbers.tolist()]


def _value(kind: Kind, random: np.random.Generator) -> str:
    if kind == "w":
        return str(uuid.UUID(bytes=random.bytes(16), version=4))
    return str(random.integers(10**6, 10**7))

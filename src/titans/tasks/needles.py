"""Needles in a haystack: RULER's single-needle tasks with their prompts, and those with several keys or values.

    pk  one key, a number of seven digits, in one line of short sentences repeated    (niah_single_1)
    n   the same in real text                                                         (niah_single_2)
    w   one key, a UUID, in real text                                                 (niah_single_3)
    mk  four keys with a number each, one of which is asked for, in real text         (niah_multikey_1)
    mv  one key with four numbers, all asked for, in real text                        (niah_multivalue)

From RULER (Hsieh et al. 2024, arXiv 2404.06654): kinds, noise, wording of needles and questions. Needles lie between
sentences, those of pk between lines; in a last sentence that is cut to fit, and in texts without sentences, anywhere
(of n's needles at 2,048 bytes about one in twenty, at 700 one in five). Ours: the words that keys are made of (7,254
keys, the same in training), depth and length in tokens, that a text begins with a random sentence and keeps its white
space, that the first and the last line of pk are cut, that there are all depths, not 40 of them (at the last one pk's
needle is the last line and a blank one follows, where RULER has a line of noise), and that several values have to be
given in the order in which they were stated, may lie in one place and with a depth do.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from titans.data.batches import TokenDocument
from titans.data.tokenizer import ByteTokenizer, Tokenizer
from titans.errors import TitansError
from titans.parsing import require
from titans.tasks.filler import Filler, Lines, gaps, hidden
from titans.tasks.sample import Piece, Sample, Stretch, stated, unasked
from titans.tasks.sentences import background, next_end

Kind = Literal["pk", "n", "w", "mk", "mv"]
KINDS: tuple[Kind, ...] = get_args(Kind)
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
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
    again: float = 0.0
    """to train on: up to this share of a sample, more text in which any of its keys is asked for again and again"""

    def __post_init__(self) -> None:
        require(self, "kind", self.kind in KINDS, f"one of {', '.join(KINDS)}")
        require(self, "depth", self.depth is None or 0 <= self.depth <= 1, "from 0 to 1")
        require(self, "again", 0 <= self.again < 1, "at least 0 and below 1")

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def _num_keys(self) -> int:
        return SEVERAL if self.kind == "mk" else 1

    @property
    def _num_values(self) -> int:
        """Of the key that is asked for; every other has one."""
        return SEVERAL if self.kind == "mv" else 1

    @property
    def shortest(self) -> int:
        """With the longest words and no filler at all; each of their characters may be a token of its own."""
        values, needles = self._num_values, self._num_keys + self._num_values - 1
        around = sum(map(len, (*self._stated([("", "")] * needles), *self._asked("", [""] * values))))
        key = len(f"{max(_ADJECTIVES, key=len)}-{max(_NOUNS, key=len)}")
        value = 36 if self.kind == "w" else 7
        # The question says the key twice and the answer every value once more; the last token is only a label.
        return around + (needles + 2) * key + (needles + values) * value - 1

    def sample(self, length: int, random: np.random.Generator) -> Sample:
        """`length` tokens: what is to come, the haystack with its needles, the question and its answer.

        Raises:
            TitansError: the needles do not fit into so few tokens.
        """
        key, *others = _distinct_keys(self._num_keys, random)
        values = [_value(self.kind, random) for _ in range(self._num_values)]
        needles = [(key, value) for value in values] + [(other, _value(self.kind, random)) for other in others]
        opening, *pieces = self._stated(needles)
        asked = [self._asked(key, values), *(self._asked(other, [value]) for other, value in needles[len(values) :])]
        end = stated(*asked[0])
        hay = length - len(opening) - sum(map(len, pieces)) - len(end)
        if hay < 0:
            raise TitansError(
                f"{length} tokens are too few for a sample of the needle task {self.kind!r}: it takes {self.shortest}"
            )
        more = int(hay * self.again * random.uniform()) if self.again else 0
        places = random.uniform(size=len(pieces))
        if self.depth is not None:
            places[: len(values)] = self.depth  # what is asked for; distractors lie anywhere
        if self.kind == "mv":
            places.sort()  # the values are asked for in the order in which they stand
        cuts = (places * (hay - more)).round().astype(int).tolist()
        return Sample(
            (
                opening,
                *self._hidden(pieces, cuts, hay - more, random),
                *self._asked_again(asked, more, random),
                end,
            )
        )

    def _hidden(
        self, pieces: Sequence[Piece], cuts: Sequence[int], length: int, random: np.random.Generator
    ) -> list[Piece | Stretch]:
        """`length` tokens with piece i where the sentence ends that token `cuts[i]` lies in, or between two lines."""
        if isinstance(self.filler, Lines):
            return hidden([self.filler.broken_at(min(cuts), length)], pieces, cuts)
        text = background(self.filler, length, self.tokenizer, random)
        return hidden(text, pieces, [cut and next_end(text, cut, self.tokenizer) for cut in cuts])

    def _asked_again(
        self, asked: Sequence[tuple[np.ndarray, np.ndarray]], room: int, random: np.random.Generator
    ) -> list[Piece | Stretch]:
        """`room` tokens in which any of the questions is put as often as there is place, with text before the next."""
        space = self._encode(" ")
        every = [stated(question, answer, space) for question, answer in asked]
        parts = []
        for gap in gaps(room, max(map(len, every)), random):
            one = every[random.integers(len(every))]
            parts += [one, *self.filler.stretch(gap, random)]
            room -= len(one) + gap
        return [*parts, *self.filler.stretch(room, random)]

    def _stated(self, needles: Sequence[tuple[str, str]]) -> list[Piece]:
        """The opening and the needles."""
        what, be, some = (f"{self._what}s", "are", "Some") if self._num_values > 1 else (self._what, "is", "A")
        before, after = ("", "\n") if isinstance(self.filler, Lines) else (" ", "")
        texts = [
            f"{some} special magic {what} {be} hidden within the following text. Make sure to memorize it. I will quiz "
            f"you about the {what} afterwards.\n",
            *(f"{before}One of the special magic {self._what}s for {k} is: {v}.{after}" for k, v in needles),
        ]
        return [unasked(self._encode(text)) for text in texts]

    def _asked(self, key: str, values: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The question about a key, and its answer."""
        what, be, every = (f"{self._what}s", "are", "all ") if self._num_values > 1 else (self._what, "is", "")
        asked = f"the special magic {what} for {key} mentioned in the provided text"
        question = f"\nWhat {be} {every}{asked}? {asked[0].upper()}{asked[1:]} {be}"
        return self._encode(question), self._encode(" " + ", ".join(values) + ".")

    @property
    def _what(self) -> str:
        return "uuid" if self.kind == "w" else "number"

    def _encode(self, text: str) -> np.ndarray:
        return self.tokenizer.encode(text)


def noise(tokenizer: Tokenizer = ByteTokenizer()) -> Filler:  # noqa: B008 (it has no state)
    """RULER's noise: a line of five short sentences without end."""
    return Lines(tokenizer.encode(NOISE))


def needles(
    kind: Kind,
    haystack: Sequence[TokenDocument],
    tokenizer: Tokenizer = ByteTokenizer(),  # noqa: B008
    *,
    depth: float | None = None,
    again: float = 0.0,
) -> Needles:
    """The task of a kind; haystack: documents in the tokenizer's tokens, which pk has no need of."""
    filler = noise(tokenizer) if kind == "pk" else Filler(haystack)
    return Needles(kind=kind, filler=filler, tokenizer=tokenizer, depth=depth, again=again)


def _distinct_keys(count: int, random: np.random.Generator) -> list[str]:
    numbers = random.choice(len(_ADJECTIVES) * len(_NOUNS), count, replace=False)
    return [f"{_ADJECTIVES[n // len(_NOUNS)]}-{_NOUNS[n % len(_NOUNS)]}" for n in numbers.tolist()]


def _value(kind: Kind, random: np.random.Generator) -> str:
    if kind == "w":
        return str(uuid.UUID(bytes=random.bytes(16), version=4))
    return str(random.integers(10**6, 10**7))

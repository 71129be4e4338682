"""Pass keys hidden in text: training documents that ask for one, and long ones that test how far back it is found."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from titans.data.batches import IGNORED, Batch, BatchSource, TokenDocument

NEEDLE = "\n# The pass key is {key}. Remember it. {key} is the pass key.\n"
QUESTION = "\n# What is the pass key? The pass key is "
KEY_DIGITS = 5
CHANCE = 10.0**-KEY_DIGITS


class Filler:
    """Random stretches of real text."""

    def __init__(self, documents: Sequence[TokenDocument]) -> None:
        lengths = np.array([len(document) for document in documents], dtype=np.float64)
        if not len(lengths):
            raise ValueError("needles need at least one document to be hidden in")
        self._documents, self._weights = documents, lengths / lengths.sum()

    def stretch(self, length: int, random: np.random.Generator) -> np.ndarray:
        """`length` tokens [length] int64: a stretch of one document, of several where one is too short."""
        pieces, missing = [], length
        while missing > 0:
            document = self._documents[int(random.choice(len(self._documents), p=self._weights))]
            start = int(random.integers(max(1, len(document) - missing + 1)))
            pieces.append(document.tokens(start, min(start + missing, len(document))))
            missing -= len(pieces[-1])
        return np.concatenate([np.empty(0, np.int64), *pieces])


class PassKeyBatches:
    """Batches of documents that state a pass key once and ask for it now and then (a `BatchSource`).

    A row is filled with documents of mixed lengths, log-uniform between `shortest` and the window, so that short
    distances teach what long ones then demand. Every token has a label: the text as well as the answers.
    """

    def __init__(
        self,
        documents: Sequence[TokenDocument],
        batch_size: int,
        length: int,
        seed: int = 0,
        *,
        shortest: int = 256,
    ) -> None:
        self._filler = Filler(documents)
        self._shape, self._seed, self._shortest, self._step = (batch_size, length), seed, min(shortest, length), 0

    def next(self) -> Batch:
        """The next batch; there is no last one."""
        rows = [self._row(np.random.default_rng([self._seed, self._step, row])) for row in range(self._shape[0])]
        self._step += 1
        tokens, reset = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
        labels = torch.full_like(tokens, IGNORED)
        labels[:, :-1] = torch.where(reset[:, 1:], IGNORED, tokens[:, 1:])
        return Batch(tokens, labels, reset)

    def state_dict(self) -> dict:
        """How many batches were made."""
        return {"step": self._step}

    def load_state_dict(self, state: dict) -> None:
        """Goes on after as many batches."""
        self._step = int(state["step"])

    def _row(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.empty(self._shape[1], np.int64)
        reset = np.zeros(self._shape[1], bool)
        filled = 0
        while filled < len(tokens):
            length = int(np.exp(random.uniform(np.log(self._shortest), np.log(self._shape[1]))))
            document = self._document(length, random)[: len(tokens) - filled]
            tokens[filled : filled + len(document)] = document
            reset[filled] = True
            filled += len(document)
        return tokens, reset

    def _document(self, length: int, random: np.random.Generator) -> np.ndarray:
        key = _random_key(random)
        needle, question = encode(NEEDLE.format(key=key)), encode(f"{QUESTION}{key}\n")
        room = max(0, length - len(needle) - len(question))
        questions = 1 + room // 128
        cuts = np.sort(random.integers(0, room + 1, questions + 1))
        text = self._filler.stretch(room, random)
        parts = np.split(text, cuts)
        pieces = [parts[0], needle, parts[1]]
        for part in parts[2:]:
            pieces += [question, part]
        return np.concatenate(pieces)


@dataclass(frozen=True)
class Haystack:
    """One long document to be read before its question is put."""

    tokens: np.ndarray
    """the text with the needle in it [length] int64"""
    answer: np.ndarray
    """question and key [question + KEY_DIGITS] int64; the key is what counts"""

    def pieces(self, size: int) -> Iterator[np.ndarray]:
        """The text, piece by piece."""
        for start in range(0, len(self.tokens), size):
            yield self.tokens[start : start + size]


def haystack(filler: Filler, length: int, depth: float, random: np.random.Generator) -> Haystack:
    """A text of `length` tokens with a pass key at `depth` (0 its beginning, 1 its end).

    Raises:
        ValueError: the length does not hold the needle, or depth is outside 0 ... 1.
    """
    key = _random_key(random)
    needle = encode(NEEDLE.format(key=key))
    if length < len(needle):
        raise ValueError(f"a text of {length} tokens does not hold the needle of {len(needle)}")
    if not 0 <= depth <= 1:
        raise ValueError(f"depth is {depth}; it must be between 0 and 1")
    text = filler.stretch(length - len(needle), random)
    place = round(depth * len(text))
    return Haystack(np.concatenate([text[:place], needle, text[place:]]), encode(QUESTION + key))


def encode(text: str) -> np.ndarray:
    """Bytes of a text as tokens, int64."""
    return np.frombuffer(text.encode(), np.uint8).astype(np.int64)


def _random_key(random: np.random.Generator) -> str:
    return "".join(str(digit) for digit in random.integers(0, 10, KEY_DIGITS))


class MixedBatches:
    """The rows of several sources under each other (a `BatchSource`)."""

    def __init__(self, sources: Sequence[BatchSource]) -> None:
        self._sources = sources

    def next(self) -> Batch:
        """The next batch of every source; StopIteration when one has ended."""
        parts = [source.next() for source in self._sources]
        return Batch(*(torch.cat([getattr(part, name) for part in parts]) for name in ("tokens", "labels", "reset")))

    def state_dict(self) -> dict:
        """The positions of all sources."""
        return {"sources": [source.state_dict() for source in self._sources]}

    def load_state_dict(self, state: dict) -> None:
        """Goes on from a `state_dict` of the same sources."""
        for source, saved in zip(self._sources, state["sources"], strict=True):
            source.load_state_dict(saved)

"""Pass keys hidden in text: training documents that ask for one, and long ones that test how far back it is found."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from titans.data.batches import IGNORED, Batch, TokenDocument

QUESTION = "\n#key:"
NEEDLE = QUESTION + "{key}\n"
KEY_DIGITS = 5
ANSWER_WEIGHT = 20.0  # an answer is 5 bytes among hundreds; unweighted it takes many times as long to learn
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
    distances teach what long ones then demand. Every token has a label: the text as well as the answers, which count
    `ANSWER_WEIGHT` times.
    """

    def __init__(
        self,
        documents: Sequence[TokenDocument],
        batch_size: int,
        length: int,
        seed: int = 0,
        *,
        shortest: int = 32,
    ) -> None:
        self._filler = Filler(documents)
        self._shape, self._seed, self._shortest, self._step = (batch_size, length), seed, min(shortest, length), 0

    def next(self) -> Batch:
        """The next batch; there is no last one."""
        rows = [self._row(np.random.default_rng([self._seed, self._step, row])) for row in range(self._shape[0])]
        self._step += 1
        tokens, reset, answers = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
        labels = torch.full_like(tokens, IGNORED)
        labels[:, :-1] = torch.where(reset[:, 1:], IGNORED, tokens[:, 1:])
        weights = torch.ones(tokens.shape)
        weights[:, :-1][answers[:, 1:]] = ANSWER_WEIGHT
        return Batch(tokens, labels, reset, weights)

    def state_dict(self) -> dict:
        """How many batches were made."""
        return {"step": self._step}

    def load_state_dict(self, state: dict) -> None:
        """Goes on after as many batches."""
        self._step = int(state["step"])

    def _row(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens, document starts and answers of one row, [T] each."""
        tokens = np.empty(self._shape[1], np.int64)
        reset = np.zeros(self._shape[1], bool)
        answers = np.zeros(self._shape[1], bool)
        filled = 0
        while filled < len(tokens):
            length = int(np.exp(random.uniform(np.log(self._shortest), np.log(self._shape[1]))))
            document, answered = self._document(length, random)
            room = slice(filled, filled + len(document))
            tokens[room], answers[room] = (x[: len(tokens) - filled] for x in (document, answered))
            reset[filled] = True
            filled += len(document)
        return tokens, reset, answers

    def _document(self, length: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A text with one statement and some questions, and where the answers are."""
        key = _random_key(random)
        needle, question, answer = encode(NEEDLE.format(key=key)), encode(QUESTION), encode(key)
        room = max(0, length - 2 * len(needle))
        questions = 1 + room // 128
        text = self._filler.stretch(room, random)
        parts = np.split(text, np.sort(random.integers(0, room + 1, questions + 1)))
        pieces = [(parts[0], False), (needle, False), (parts[1], False)]
        for part in parts[2:]:
            pieces += [(question, False), (answer, True), (encode("\n"), False), (part, False)]
        flags = [np.full(len(piece), is_answer) for piece, is_answer in pieces]
        return np.concatenate([piece for piece, _ in pieces]), np.concatenate(flags)


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


def haystack(filler: Filler, distance: int, depth: float, random: np.random.Generator) -> Haystack:
    """A text with a pass key at `depth` (0 its beginning, towards 1 its end) and `distance` tokens after the key.

    Raises:
        ValueError: distance is negative, or depth is not in [0, 1).
    """
    if distance < 0:
        raise ValueError(f"distance is {distance}; it must be at least 0")
    if not 0 <= depth < 1:
        raise ValueError(f"depth is {depth}; it must be at least 0 and below 1")
    key = _random_key(random)
    before = filler.stretch(round(distance * depth / (1 - depth)), random)
    after = filler.stretch(distance, random)
    return Haystack(np.concatenate([before, encode(NEEDLE.format(key=key)), after]), encode(QUESTION + key))


def encode(text: str) -> np.ndarray:
    """Bytes of a text as tokens, int64."""
    return np.frombuffer(text.encode(), np.uint8).astype(np.int64)


def _random_key(random: np.random.Generator) -> str:
    return "".join(str(digit) for digit in random.integers(0, 10, KEY_DIGITS))

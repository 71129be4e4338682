"""Pass keys of `titans quickstart`: training documents that ask for one, and long ones that test how far it is found.

Beside rows of plain text they are read by rows of a fixed length, in which one document follows another; what `titans
eval` asks is made of samples of one length (pass_keys.py, needles.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from titans.data.batches import IGNORED, Batch, TokenDocument
from titans.data.tokenizer import ByteTokenizer
from titans.models.language_model import TitansLM
from titans.tasks.filler import Filler

encode = ByteTokenizer().encode

QUESTION = "\n#key:"
NEEDLE = QUESTION + "{key}\n"
KEY_DIGITS = 5
ANSWER_WEIGHT = 20.0  # an answer is 5 bytes among hundreds; unweighted it takes many times as long to learn
CHANCE = 10.0**-KEY_DIGITS
SHORTEST, LONGEST = 32, 4096  # tokens of a training document
_SHORTEST_GAP = 8


class PassKeyBatches:
    """Batches of documents that state a pass key once and ask for it now and then (a `BatchSource`).

    A row reads one document after another; one that is longer than the window goes on in the next batch, with the
    carried state. Lengths run from `shortest` to `longest` and every octave of them gets as many bytes as another, so
    that short distances teach what long ones then demand. Every token has a label: the text as well as the answers,
    which count `ANSWER_WEIGHT` times.
    """

    def __init__(
        self,
        documents: Sequence[TokenDocument],
        batch_size: int,
        length: int,
        seed: int = 0,
        *,
        shortest: int = SHORTEST,
        longest: int = LONGEST,
    ) -> None:
        self._filler = Filler(documents)
        self._length, self._seed, self._shortest, self._longest = length, seed, shortest, longest
        self._rows = [(0, 0)] * batch_size  # per row: the number of its document, and how far it has been read
        self._open = [self._document(row, 0) for row in range(batch_size)]

    def next(self) -> Batch:
        """The next batch; there is no last one."""
        rows = [self._fill(row) for row in range(len(self._rows))]
        return Batch(*(torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True)))

    def state_dict(self) -> dict:
        """The document and offset of every row."""
        return {"rows": [list(row) for row in self._rows]}

    def load_state_dict(self, state: dict) -> None:
        """Goes on from a `state_dict` of the same documents, sizes and seed."""
        self._rows = [(number, offset) for number, offset in state["rows"]]
        self._open = [self._document(row, number) for row, (number, _) in enumerate(self._rows)]

    def _fill(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Tokens, labels, document starts and weights of one row's window, [T] each."""
        tokens = np.empty(self._length, np.int64)
        labels = np.full(self._length, IGNORED, np.int64)
        reset = np.zeros(self._length, bool)
        weights = np.ones(self._length, np.float32)
        filled = 0
        while filled < self._length:
            number, offset = self._rows[row]
            document, answers = self._open[row]
            count = min(self._length - filled, len(document) - offset)
            following = slice(offset + 1, offset + count + 1)  # one token less at the document's end
            labelled = slice(filled, filled + len(document[following]))
            tokens[filled : filled + count] = document[offset : offset + count]
            labels[labelled] = document[following]
            weights[labelled] += (ANSWER_WEIGHT - 1) * answers[following]
            reset[filled] = offset == 0
            filled += count
            self._rows[row] = (number, offset + count)
            if offset + count == len(document):
                self._rows[row] = (number + 1, 0)
                self._open[row] = self._document(row, number + 1)
        return tokens, labels, reset, weights

    def _document(self, row: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """A text with one statement and some questions, and where the answers are."""
        random = np.random.default_rng([self._seed, row, number])
        length = int(1 / random.uniform(1 / self._longest, 1 / self._shortest))
        key = _random_key(random)
        needle, question, answer = encode(NEEDLE.format(key=key)), encode(QUESTION), encode(key)
        text = _text(self._filler, max(1, length - 2 * len(needle)), random)
        # Each answer states the key again, so a question is as far away as the gap before it is long.
        before, *gaps = _cuts(len(text), random)
        parts = iter(np.split(text, np.cumsum([before, *gaps])))
        pieces = [(next(parts), False), (needle, False), (next(parts), False)]
        for part in parts:
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
    before = _text(filler, round(distance * depth / (1 - depth)), random)
    after = _text(filler, distance, random)
    return Haystack(np.concatenate([before, encode(NEEDLE.format(key=key)), after]), encode(QUESTION + key))


@torch.no_grad()
def recall(
    model: TitansLM,
    documents: Sequence[TokenDocument],
    distance: int,
    depth: float,
    samples: int,
    seed: int = 0,
    piece: int = 2048,
) -> float:
    """Share of pass keys answered exactly, digit by digit and greedily.

    Args:
        documents: text to hide the keys in.
        distance: tokens between key and question.
        depth: place of the key in the text, from 0 (its beginning) to below 1.
        samples: keys; all are read side by side, the state carried from piece to piece.
        piece: tokens per call; memory does not grow with `distance`.
    """
    filler = Filler(documents)
    random = np.random.default_rng([seed, distance, round(1000 * depth)])
    stacks = [haystack(filler, distance, depth, random) for _ in range(samples)]
    state = None
    for tokens in zip(*(stack.pieces(piece) for stack in stacks), strict=True):
        _, state = model(torch.from_numpy(np.stack(tokens)), state, logits_to_keep=1)
    # Teacher forcing with an exact match is greedy decoding: one wrong digit is a wrong answer either way.
    asked = torch.from_numpy(np.stack([stack.answer for stack in stacks]))
    logits, _ = model(asked[:, :-1], state)
    right = (logits[:, -KEY_DIGITS:].argmax(-1) == asked[:, -KEY_DIGITS:]).all(1)
    return right.float().mean().item()


def _text(filler: Filler, length: int, random: np.random.Generator) -> np.ndarray:
    """A stretch's tokens [length] int64."""
    stretches = filler.stretch(length, random)
    return np.concatenate([np.empty(0, np.int64), *(one.document.tokens(one.start, one.stop) for one in stretches)])


def _cuts(length: int, random: np.random.Generator) -> list[int]:
    """Gaps that add up to at most `length`; every octave of distance is as frequent as another."""
    gaps = []
    while sum(gaps) < length:
        gaps.append(int(np.exp(random.uniform(np.log(_SHORTEST_GAP), np.log(max(length, _SHORTEST_GAP))))))
    return gaps[:-1] if len(gaps) > 2 else [length // 4, length // 2]


def _random_key(random: np.random.Generator) -> str:
    return "".join(str(digit) for digit in random.integers(0, 10, KEY_DIGITS))

"""How many answers of a model are right. Answers are the most likely tokens.

Each token of an answer is asked for with the right ones before it. That an answer is right as a whole is the same as
with the model's own tokens, as long as it answers greedily: at its first wrong token both are wrong.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from titans.data.batches import IGNORED
from titans.models.loss import check_logits
from titans.tasks.sample import Sample, Task
from titans.training.model import StatefulModel, device_of, evaluating, tokens_per_row
from titans.training.progress import Progress

PIECE = 8192  # tokens per call, of all samples read side by side


@dataclass(frozen=True, kw_only=True)
class Score:
    """What was right at one length."""

    length: int
    """tokens of a sample"""
    samples: int
    right: float
    """share of samples in which every asked token was right"""
    tokens_right: float | None
    """share of the asked tokens; None where none is asked for by itself"""

    def to_dict(self) -> dict:
        """As JSON holds it."""
        return asdict(self)


def random_of(seed: int | tuple[int, ...], length: int) -> np.random.Generator:
    """Random numbers of the samples of an evaluation; those of training begin otherwise."""
    return np.random.default_rng([_EVALUATION, seed, length])


def read(
    model: StatefulModel, batch: Sequence[Sample], piece: int, progress: Progress | None
) -> Iterator[tuple[np.ndarray, Tensor, Any]]:
    """Samples of one length, about `piece` tokens at a time: labels [B, n], logits [B, n, V] and the state after them.

    n: the last tokens of each piece, from the first that is asked for; at least one.

    Raises:
        NonFiniteError: some logit is NaN or infinite.
    """
    device, state, size = device_of(model), None, tokens_per_row(piece, len(batch))
    for pieces in zip(*(sample.pieces(size) for sample in batch), strict=True):
        tokens = torch.from_numpy(np.stack([p.tokens for p in pieces])).to(device)
        labels = np.stack([p.labels for p in pieces])
        asked = (labels != IGNORED).any(0)
        kept = len(asked) - int(asked.argmax()) if asked.any() else 1
        logits, state = model(tokens, state=state, logits_to_keep=kept)
        check_logits(logits)
        if progress is not None:
            progress.advance(tokens.numel())
        yield labels[:, -kept:], logits, state


def side_by_side(length: int, samples: int, batch_size: int, piece: int) -> list[int]:
    """How many samples are read side by side, time after time; of length 0 each is as long as its facts: one.

    Raises:
        ValueError: samples, batch_size or piece is below 1.
    """
    for name, value in {"samples": samples, "batch_size": batch_size, "piece": piece}.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    rows = batch_size if length else 1
    return [min(rows, samples - start) for start in range(0, samples, rows)]


def score(
    model: StatefulModel,
    task: Task,
    length: int,
    samples: int,
    *,
    seed: int | tuple[int, ...] = 0,
    batch_size: int = 32,
    piece: int = PIECE,
    progress: Progress | None = None,
) -> Score:
    """Asks `model` `samples` times at one length.

    Args:
        seed: of the samples; training never uses those of an evaluation.
        batch_size: samples read side by side; of length 0, which differ in length, one at a time.
        piece: tokens per call, in all rows together; the memory needed does not grow with `length`.
        progress: counts tokens.

    Raises:
        ValueError: samples, batch_size or piece is below 1.
        NonFiniteError: the model predicts NaN or infinite logits.
    """
    times = side_by_side(length, samples, batch_size, piece)
    random = random_of(seed, length)
    right = tokens_right = asked = 0
    with evaluating(model):
        for rows in times:
            batch = [task.sample(length, random) for _ in range(rows)]
            hits, counts = _answers(model, batch, piece, progress)
            right += int((hits == counts).sum())
            tokens_right += int(hits.sum())
            asked += int(counts.sum())
    return Score(length=length, samples=samples, right=right / samples, tokens_right=tokens_right / asked)


_EVALUATION = 2**32 - 1  # begins the seeds of evaluations; groups of training samples begin with their own seed


def _answers(
    model: StatefulModel, batch: list[Sample], piece: int, progress: Progress | None
) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens of each sample were right [B] and were asked for [B]."""
    hits, counts = np.zeros(len(batch), np.int64), np.zeros(len(batch), np.int64)
    for labels, logits, _ in read(model, batch, piece, progress):
        asked = labels != IGNORED
        if asked.any():
            hits += ((logits.argmax(-1).cpu().numpy() == labels) & asked).sum(1)
            counts += asked.sum(1)
    return hits, counts

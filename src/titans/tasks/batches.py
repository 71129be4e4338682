"""Samples as batches to train on: random lengths, a curriculum over them, long samples in windows.

Letters: B rows, T tokens of a window.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from titans.data.batches import IGNORED, Batch
from titans.tasks.sample import Task


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Lengths of training samples, drawn so that every octave is as frequent as another."""

    shortest: int
    longest: int
    rise: int = 0
    """groups of samples until `longest` may come up; up to there the bound rises, octave by octave in equal time"""

    def draw(self, group: int, random: np.random.Generator) -> int:
        """The length of all samples of a group; groups are counted from 0."""
        low, high = np.log(self.shortest), np.log(self.longest)
        if group < self.rise:
            high = low + (high - low) * (group + 1) / self.rise
        return round(np.exp(random.uniform(low, high)))


class SampleBatches:
    """Batches of a task's samples (a `BatchSource`).

    A group of samples has one length, so that all rows begin and end together: a model that cannot forget in the middle
    of a row can be trained on it as well. Samples longer than the window come in several batches, with the carried
    state; of shorter ones there are more rows, so that every batch has about as many tokens.
    """

    def __init__(
        self, task: Task, lengths: Lengths, batch_size: int, window: int, seed: int = 0, *, text_weight: float = 0.0
    ) -> None:
        """
        Args:
            batch_size: rows of a sample that fills the window; never fewer.
            window: tokens per row and batch at most, T.
            text_weight: what the prediction of a token that is no answer counts beside an answer's.
        """
        self._task, self._lengths, self._seed = task, lengths, seed
        self._rows, self._window, self._text_weight = batch_size, window, text_weight
        self._group, self._done = 0, 0  # the group being read, and how many of its windows
        self._windows = self._begin()

    def next(self) -> Batch:
        """The next batch; there is no last one."""
        batch = next(self._windows, None)
        if batch is None:
            self._group, self._done = self._group + 1, 0
            self._windows = self._begin()
            batch = next(self._windows)
        self._done += 1
        return batch

    def state_dict(self) -> dict:
        """The group, and how many of its windows have been read."""
        return {"group": self._group, "done": self._done}

    def load_state_dict(self, state: dict) -> None:
        """Goes on from a `state_dict` of the same task, lengths, sizes and seed."""
        self._group, self._done = state["group"], state["done"]
        self._windows = self._begin()
        for _ in range(self._done):
            next(self._windows)

    def _begin(self) -> Iterator[Batch]:
        random = np.random.default_rng([self._seed, self._group])
        length = self._lengths.draw(self._group, random)
        rows = max(self._rows, self._rows * self._window // length)
        samples = [self._task.sample(length, random) for _ in range(rows)]
        return self._windows_of(list(zip(*(sample.pieces(self._window) for sample in samples), strict=True)))

    def _windows_of(self, windows: list) -> Iterator[Batch]:
        for number, pieces in enumerate(windows):
            tokens = np.stack([piece.tokens for piece in pieces])
            labels = np.stack([piece.labels for piece in pieces])
            following = None if number + 1 == len(windows) else np.stack([p.tokens[:1] for p in windows[number + 1]])
            yield self._batch(tokens, labels, following, begins=number == 0)

    def _batch(self, tokens: np.ndarray, labels: np.ndarray, following: np.ndarray | None, *, begins: bool) -> Batch:
        """following: the first tokens of the next window [B, 1], None if there is none."""
        reset = np.zeros(tokens.shape, bool)
        reset[:, 0] = begins
        weights = np.ones(tokens.shape, np.float32)
        if self._text_weight:
            last = np.full((len(tokens), 1), IGNORED, np.int64) if following is None else following
            text = np.concatenate([tokens[:, 1:], last], 1)
            weights[labels == IGNORED] = self._text_weight
            labels = np.where(labels == IGNORED, text, labels)
        return Batch(*(torch.from_numpy(x) for x in (tokens, labels, reset, weights)))

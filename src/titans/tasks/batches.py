"""Samples as batches to train on: random lengths, long samples in windows, one task after another.

Letters: B rows, T tokens of a window.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from titans.data.batches import IGNORED, Batch, BatchSource
from titans.parsing import require
from titans.tasks.sample import Task


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Lengths of training samples, drawn so that every octave is as frequent as another."""

    shortest: int
    longest: int

    def __post_init__(self) -> None:
        require(self, "longest", self.longest >= self.shortest, f"at least {self.shortest}, the shortest sample's")

    def draw(self, random: np.random.Generator) -> int:
        """The length of all samples of a group."""
        return round(np.exp(random.uniform(np.log(self.shortest), np.log(self.longest))))


class Countable(BatchSource, Protocol):
    """A source that knows how much it will give."""

    @property
    def stages(self) -> "Sequence[tuple[Countable, int]]":
        """The sources that it is made of, each with the number of its batches; 0: as many as are asked for."""
        ...

    def count(self, batches: int) -> int:
        """Tokens of its first batches."""
        ...


class SampleBatches:
    """Batches of a task's samples (a `Countable` source).

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

    @property
    def stages(self) -> Sequence[tuple[Countable, int]]:
        """Itself."""
        return [(self, 0)]

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

    def count(self, batches: int) -> int:
        """Tokens of the first `batches` batches."""
        tokens, group = 0, 0
        while batches > 0:
            _, length, rows = self._shape(group)
            windows = -(-length // self._window)
            tokens += rows * min(length, batches * self._window)
            batches, group = batches - windows, group + 1
        return tokens

    def _shape(self, group: int) -> tuple[np.random.Generator, int, int]:
        """A group's random numbers, and the length and number of its samples."""
        random = np.random.default_rng([self._seed, group])
        length = self._lengths.draw(random)
        return random, length, max(self._rows, self._rows * self._window // length)

    def _begin(self) -> Iterator[Batch]:
        random, length, rows = self._shape(self._group)
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


class InStages:
    """One source after the other (a `Countable` source): what is easier to learn first."""

    def __init__(self, stages: Sequence[tuple[Countable, int]]) -> None:
        """stages: sources, each with the number of its batches; the last one goes on for as long as it can."""
        self.stages: Sequence[tuple[Countable, int]] = stages
        self._stage, self._left = 0, stages[0][1]

    def next(self) -> Batch:
        """The next batch. The first one of a source begins every row anew."""
        while self._left == 0 and self._stage + 1 < len(self.stages):
            self._stage += 1
            self._left = self.stages[self._stage][1]
        self._left = max(0, self._left - 1)
        return self.stages[self._stage][0].next()

    def count(self, batches: int) -> int:
        """Tokens of the first `batches` batches."""
        tokens = 0
        for number, (source, size) in enumerate(self.stages):
            here = batches if number + 1 == len(self.stages) else min(batches, size)
            tokens, batches = tokens + source.count(here), batches - here
        return tokens

    def state_dict(self) -> dict:
        """The stage, how many batches it has left, and where its source is."""
        return {"stage": self._stage, "left": self._left, "source": self.stages[self._stage][0].state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Goes on from a `state_dict` of the same stages."""
        self._stage, self._left = state["stage"], state["left"]
        self.stages[self._stage][0].load_state_dict(state["source"])

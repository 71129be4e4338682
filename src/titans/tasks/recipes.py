"""Recipes: a task, the model that learns it and how, under one name (`titans train --recipe NAME`).

Those without "large" in their name take at most half an hour on two processor cores; the large ones are for a GPU.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from titans.data.batches import TokenDocument
from titans.errors import TitansError
from titans.memory.config import MemoryConfig
from titans.models.config import TitansConfig
from titans.tasks.batches import Countable, InStages, Lengths, SampleBatches
from titans.tasks.filler import Filler
from titans.tasks.needles import needles
from titans.tasks.pass_keys import PassKeys
from titans.tasks.sample import Mixed, Task
from titans.tasks.state_tracking import parity
from titans.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is learned, by what and how."""

    purpose: str
    config: TitansConfig
    """the model; every variant and baseline takes its sizes from it"""
    settings: TrainConfig
    source: Callable[[Sequence[TokenDocument], TrainConfig], Countable]
    """the batches, made from the text to hide things in; tasks without text ignore it"""


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        TitansError: there is none.
    """
    if name not in RECIPES:
        raise TitansError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]


def _samples(task: Task, shortest: int, longest: int, settings: TrainConfig) -> SampleBatches:
    """Samples of `shortest` to `longest` tokens, of which the answers matter and text counts a little."""
    lengths, rows, window = Lengths(shortest=shortest, longest=longest), settings.batch_size, settings.length
    return SampleBatches(task, lengths, rows, window, settings.seed, text_weight=0.05)


def _needles(documents: Sequence[TokenDocument], settings: TrainConfig) -> Countable:
    """Short pass keys first, then all kinds with one needle: up to 1,024 tokens, and up to 4,096."""
    kinds = Mixed(tuple(needles(kind, documents, again=0.8) for kind in ("pk", "n", "w")))
    return InStages(
        [
            (_samples(PassKeys(filler=Filler(documents)), 100, 512, settings), settings.steps * 3 // 20),
            (_samples(kinds, kinds.shortest, 1024, settings), settings.steps * 7 // 20),
            (_samples(kinds, kinds.shortest, 4096, settings), 0),
        ]
    )


# About 0.17 M parameters over bytes, which sees 32 of them.
_SMALL = TitansConfig(
    dim=64,
    num_layers=2,
    num_heads=2,
    window_size=32,
    segment_size=32,
    memory=MemoryConfig(num_heads=2, depth=1, expansion=2, chunk_size=32),
)

# A reflection per token: theta reaches 2 and the guard lets it, every token is written at the weights before it, and
# nothing wears off (docs/lab-log.md).
_REFLECTING = MemoryConfig(
    num_heads=2,
    depth=1,
    chunk_size=1,
    max_step=2.0,
    guard_limit=1.9999,
    momentum=False,
    forgetting=False,
    convolution=False,
)


def _parity(_documents: Sequence[TokenDocument], settings: TrainConfig) -> Countable:
    """Words of 2 to 32 bits."""
    return SampleBatches(parity(), Lengths(shortest=2, longest=32), settings.batch_size, settings.length, settings.seed)


RECIPES = {
    "needles": Recipe(
        purpose="find what was said once in a long text: RULER's pk, n and w at up to 4,096 bytes",
        config=_SMALL,
        settings=TrainConfig(steps=6000, batch_size=4, length=512, learning_rate=3e-3),
        source=_needles,
    ),
    "parity": Recipe(
        purpose="whether the number of ones so far is odd: words of up to 32 bits",
        config=TitansConfig(
            variant="lmm",
            vocab_size=2,
            dim=32,
            num_layers=1,
            num_heads=2,
            window_size=32,
            segment_size=32,
            memory=_REFLECTING,
        ),
        settings=TrainConfig(steps=500, batch_size=64, length=32, learning_rate=3e-3),
        source=_parity,
    ),
}

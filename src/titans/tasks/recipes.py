"""Recipes: a task, the model that learns it and how, under one name (`titans train --recipe NAME`).

Their sizes are for two processor cores; each has a larger one for a GPU beside it, `NAME-large`.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np

from titans.data.batches import TokenDocument
from titans.data.pieces import text_of
from titans.data.tokenizer import ByteTokenizer, Tokenizer
from titans.errors import TitansError
from titans.memory.config import MemoryConfig
from titans.models.config import TitansConfig
from titans.parsing import require
from titans.tasks.babi import LABELS, babi_folder, read_questions
from titans.tasks.babilong import Babilong
from titans.tasks.batches import Countable, InStages, Lengths, SampleBatches
from titans.tasks.copying import SelectiveCopying
from titans.tasks.filler import Filler, Repeated
from titans.tasks.mad import FuzzyRecall, InContextRecall, noisy_recall
from titans.tasks.mqar import MQAR
from titans.tasks.needles import needles
from titans.tasks.pass_keys import PassKeys
from titans.tasks.sample import Mixed, Task
from titans.tasks.state_tracking import WordProblem, parity
from titans.training.config import TrainConfig

Source = Callable[[Sequence[TokenDocument], TrainConfig, Tokenizer], Countable]
"""Makes the batches, from the text to hide things in, if there is any, in the tokenizer's tokens."""

_COMPARED_BATCHES = 2


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is learned, by what and how; docs/tasks.md has a line for each."""

    task: str
    """what it learns, one of `titans.tasks.catalogue.TASKS`"""
    config: TitansConfig
    """the model; every variant and baseline takes its sizes from it"""
    settings: TrainConfig
    source: Source
    asked: Mapping[str, str | int] = field(default_factory=dict)
    """what `titans.tasks.catalogue.Choices` has to say for the task to be the one that was learned"""
    reads_text: bool = False
    """whether things are hidden in text"""
    sources_beside: int = 0
    """bytes of Python's sources that are read beside a text of the user's, at most as many as that has"""
    vocabulary: Callable[[Sequence[TokenDocument]], Iterable[str]] | None = None
    """what the model's vocabulary of pieces is learned from, given the text as bytes; None: it reads bytes"""

    def fingerprint(self, settings: TrainConfig) -> str:
        """A hash of how each stage begins with a text that never changes: another lesson has another one."""
        tokenizer = ByteTokenizer() if self.vocabulary is None else _Thirds()
        text = Repeated(tokenizer.encode('It was said once. "Where?" She asked 12 times, and nobody knew.\n'))
        digest = hashlib.sha256(str(self.sources_beside).encode())
        for stage, batches in self.source([text], settings, tokenizer).stages:
            digest.update(f"/{batches}/".encode())
            for batch in (stage.next() for _ in range(_COMPARED_BATCHES)):
                for tensor in (batch.tokens, batch.labels, batch.weights):
                    digest.update(b"" if tensor is None else tensor.numpy().tobytes())
        return digest.hexdigest()


class _Thirds(ByteTokenizer):
    """As few tokens as pieces of words would be."""

    def encode(self, text: str | bytes) -> np.ndarray:
        return super().encode(text)[::3]


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        TitansError: there is none.
    """
    if name not in RECIPES:
        raise TitansError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]


@dataclass(frozen=True)
class _Stage:
    """A part of a training."""

    task: Task
    longest: int
    """tokens of its longest sample"""
    share: float
    """of all steps"""
    text_weight: float = 0.0
    """what predicting the text between the answers counts beside them"""


def _stages(settings: TrainConfig, *stages: _Stage) -> InStages:
    """One after the other."""
    return InStages(
        [
            (
                SampleBatches(
                    stage.task,
                    Lengths(shortest=stage.task.shortest, longest=stage.longest),
                    settings.batch_size,
                    settings.length,
                    settings.seed * len(stages) + number,  # so that no stage repeats the samples of another
                    text_weight=stage.text_weight,
                ),
                round(settings.steps * stage.share),
            )
            for number, stage in enumerate(stages)
        ]
    )


def _needles(documents: Sequence[TokenDocument], settings: TrainConfig, tokenizer: Tokenizer) -> Countable:
    """Short pass keys first, then all kinds with one needle, w twice as often: up to 1,024 tokens, and to 4,096.

    At last, as in BABILong, nothing counts but the answers.
    """
    keys = PassKeys(filler=Filler(documents), tokenizer=tokenizer)
    kinds = Mixed(tuple(needles(kind, documents, tokenizer, again=0.8) for kind in ("pk", "n", "w", "w")))
    return _stages(
        settings,
        _Stage(keys, 512, share=0.06, text_weight=0.05),
        _Stage(kinds, 1024, share=0.74, text_weight=0.05),
        _Stage(kinds, 4096, share=0.2),
    )


def _babilong(documents: Sequence[TokenDocument], settings: TrainConfig, tokenizer: Tokenizer) -> Countable:
    """bAbI's five tasks mixed, of its training split: the facts with little text between them, then with more.

    Earlier questions are asked as well: with one answer per sample there is too little to learn from. So is a byte per
    token: the same tasks take many times as long. At last nothing counts but the answers: of 4,096 pieces they are so
    few that the text, were it 0.05, would be 98 % of the loss, and a memory that writes for it writes in every book
    (docs/lab-log.md).
    """
    text = Filler(documents)
    tasks = Mixed(
        tuple(
            Babilong(task, text, split="train", mode="finetuned", earlier=0.8, tokenizer=tokenizer) for task in LABELS
        )
    )
    return _stages(
        settings,
        _Stage(tasks, 128, share=0.5, text_weight=0.05),
        _Stage(tasks, 512, share=0.25, text_weight=0.05),
        _Stage(tasks, 4096, share=0.25),
    )


def _told_and_asked(documents: Sequence[TokenDocument]) -> Iterator[str]:
    """The text and bAbI's training split, so that all its words are pieces: every question with the last facts."""
    read = [read_questions(babi_folder(), task, "train") for task in LABELS]  # before a long text is read
    asked = (" ".join(("", *one.facts[-2:], one.text, one.answer)) for questions in read for one in questions)
    return chain(map(text_of, documents), asked)


def _parity(_documents: Sequence[TokenDocument], settings: TrainConfig, _tokenizer: Tokenizer) -> Countable:
    """Words of 2 to 32 bits."""
    return SampleBatches(parity(), Lengths(shortest=2, longest=32), settings.batch_size, settings.length, settings.seed)


def _s3(_documents: Sequence[TokenDocument], settings: TrainConfig, _tokenizer: Tokenizer) -> Countable:
    """Words of up to 12 elements until they are right, then of up to 64."""
    task = WordProblem(group="S3", tokens_each=2)
    return _stages(settings, _Stage(task, 24, share=0.5), _Stage(task, 128, share=0.5))


def _of_one_task(task: Task) -> Source:
    """Samples of up to as many tokens as the window has."""

    def source(_documents: Sequence[TokenDocument], settings: TrainConfig, _tokenizer: Tokenizer) -> Countable:
        _require_room(settings, task)
        lengths = Lengths(shortest=task.shortest, longest=settings.length)
        return SampleBatches(task, lengths, settings.batch_size, settings.length, settings.seed)

    return source


def _require_room(settings: TrainConfig, task: Task) -> None:
    """A window that the shortest sample fits into."""
    require(settings, "length", settings.length >= task.shortest, f"at least {task.shortest}, the shortest sample's")


MQAR_PAIRS, MQAR_TOKENS = (8, 16, 32, 64, 128), 1024


def _mqar(_documents: Sequence[TokenDocument], settings: TrainConfig, _tokenizer: Tokenizer) -> Countable:
    """8 to 128 pairs of 1,024 tokens, mixed, always in as many tokens as the window has."""
    task = Mixed(tuple(MQAR(vocab_size=MQAR_TOKENS, num_pairs=pairs) for pairs in MQAR_PAIRS))
    _require_room(settings, task)  # for all of the pairs
    lengths = Lengths(shortest=settings.length, longest=settings.length)
    return SampleBatches(task, lengths, settings.batch_size, settings.length, settings.seed)


# About a million parameters over bytes, which sees 64 of them. One memory, in the second block, whose keys are the
# last fifteen bytes: in a UUID one or two are not enough to tell what comes next, and eleven are all digits where the
# last of its groups ends. In chunks of four: its keys resemble each other, and gradients that do not see each other go
# too far together. With little momentum at first: a digit's write is in the way of the next (docs/lab-log.md).
_SMALL = TitansConfig(
    dim=192,
    num_layers=2,
    num_heads=2,
    window_size=64,
    segment_size=64,
    memory_layers=(1,),
    memory=MemoryConfig(num_heads=1, depth=1, chunk_size=4, conv_size=16, initial_momentum=0.05),
)

# Two memories, so that a second can look up what a first has found: who has the apple, and where she is. A fact has
# six or seven pieces. They do not forget: where somebody is, is written over what was there, and a forget gate that
# has learned to open at what bAbI's people do ("put down", "gave") opens in every book (docs/lab-log.md).
_READING = TitansConfig(
    variant="mac",
    vocab_size=2048,
    dim=128,
    num_layers=3,
    num_heads=2,
    window_size=64,
    segment_size=64,
    memory_layers=(1, 2),
    memory=MemoryConfig(num_heads=1, depth=1, chunk_size=8, conv_size=4, forgetting=False),
)

# Keys and values that stand next to each other: two blocks, of which the first tells apart what a token is.
_RECALLING = TitansConfig(
    variant="lmm",
    dim=64,
    num_layers=2,
    num_heads=2,
    window_size=32,
    segment_size=32,
    memory=MemoryConfig(num_heads=1, depth=1, chunk_size=8, conv_size=4),
)

# A reflection per token: theta reaches 2 and the guard lets it, every token is written at the weights before it, and
# nothing wears off (docs/lab-log.md).
_REFLECTING = TitansConfig(
    variant="lmm",
    dim=32,
    num_layers=1,
    num_heads=2,
    window_size=32,
    segment_size=32,
    memory=MemoryConfig(
        depth=1,
        chunk_size=1,
        max_step=2.0,
        guard_limit=1.9999,
        momentum=False,
        forgetting=False,
        convolution=False,
    ),
)


_RECIPES = {
    "needles": Recipe(
        task="needles",
        config=_SMALL,
        settings=TrainConfig(
            steps=5000,
            batch_size=4,
            length=512,
            learning_rate=2e-3,
            final_lr_fraction=0.02,
            warmup_steps=100,
            gate_penalty=0.02,
        ),
        source=_needles,
        reads_text=True,
        # A memory writes where a text has what its training had not; sources have digits, brackets, colons and
        # quotation marks everywhere, and nothing to find at most of them (docs/lab-log.md).
        sources_beside=2_000_000,
    ),
    "babilong": Recipe(
        task="babilong",
        config=_READING,
        settings=TrainConfig(
            steps=6000,
            batch_size=2,
            length=512,
            learning_rate=2e-3,
            final_lr_fraction=0.02,
            warmup_steps=100,
            gate_penalty=0.2,  # at full price from the start some seeds shut their memory before they use it
            penalty_warmup_steps=6000,
        ),
        source=_babilong,
        reads_text=True,
        vocabulary=_told_and_asked,
    ),
    "mqar": Recipe(
        task="mqar",
        # One block, so that nothing but the memory can recall; two taps show a key to the token after it.
        config=TitansConfig(
            variant="lmm",
            vocab_size=MQAR_TOKENS,
            dim=64,
            num_layers=1,
            num_heads=1,
            window_size=64,
            segment_size=64,
            memory=MemoryConfig(num_heads=1, depth=1, chunk_size=16, conv_size=2),
        ),
        settings=TrainConfig(steps=1500, batch_size=8, length=512, learning_rate=3e-3, warmup_steps=50),
        source=_mqar,
        asked={"vocab_size": MQAR_TOKENS},
    ),
    "copying": Recipe(
        task="copying",
        config=_RECALLING.replace(
            vocab_size=SelectiveCopying().vocab_size, dim=96, memory=_RECALLING.memory.replace(chunk_size=4)
        ),
        settings=TrainConfig(steps=2000, batch_size=16, length=256, learning_rate=3e-3, warmup_steps=50),
        source=_of_one_task(SelectiveCopying()),
    ),
    "in-context-recall": Recipe(
        task="in-context-recall",
        config=_RECALLING.replace(vocab_size=InContextRecall().vocab_size),
        settings=TrainConfig(steps=600, batch_size=32, length=128, learning_rate=3e-3, warmup_steps=50),
        source=_of_one_task(InContextRecall()),
    ),
    "noisy-recall": Recipe(
        task="noisy-recall",
        config=_RECALLING.replace(vocab_size=noisy_recall().vocab_size),
        settings=TrainConfig(steps=600, batch_size=32, length=128, learning_rate=3e-3, warmup_steps=50),
        source=_of_one_task(noisy_recall()),
    ),
    "fuzzy-recall": Recipe(
        task="fuzzy-recall",
        config=_RECALLING.replace(variant="mag", vocab_size=FuzzyRecall().vocab_size),
        settings=TrainConfig(steps=1500, batch_size=32, length=128, learning_rate=3e-3, warmup_steps=50),
        source=_of_one_task(FuzzyRecall()),
    ),
    "parity": Recipe(
        task="state-tracking",
        # All or nothing: the gate opens past what the guard lets through, and costs something while it is half open.
        config=_REFLECTING.replace(vocab_size=2, memory=_REFLECTING.memory.replace(num_heads=2, max_step=3.0)),
        settings=TrainConfig(steps=500, batch_size=64, length=32, learning_rate=3e-3, gate_penalty=0.01),
        source=_parity,
        asked={"problem": "parity", "tokens_each": 1},
    ),
    "S3": Recipe(
        task="state-tracking",
        config=_REFLECTING.replace(vocab_size=12),
        settings=TrainConfig(steps=2000, batch_size=64, length=128, learning_rate=3e-3),
        source=_s3,
        asked={"problem": "S3", "tokens_each": 2},
    ),
}


def _larger(small: Recipe) -> Recipe:
    """Four times as wide and deep, with as many more heads as channels, and sixteen times the tokens, in bfloat16.

    Where only some blocks have a memory it is in the last of the four that stand for one. None has been trained to its
    end.
    """
    config, settings = small.config, small.settings
    layers = config.memory_layers
    return replace(
        small,
        config=config.replace(
            dim=4 * config.dim,
            num_layers=4 * config.num_layers,
            num_heads=4 * config.num_heads,
            memory_layers=None if layers is None else tuple(4 * layer + 3 for layer in layers),
            memory=config.memory.replace(num_heads=4 * config.memory.num_heads),
        ),
        settings=replace(
            settings,
            steps=4 * settings.steps,
            penalty_warmup_steps=4 * settings.penalty_warmup_steps,
            batch_size=4 * settings.batch_size,
            learning_rate=settings.learning_rate / 4,
            precision="bfloat16",
        ),
    )


RECIPES = _RECIPES | {f"{name}-large": _larger(small) for name, small in _RECIPES.items()}

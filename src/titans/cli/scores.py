"""Scores of a trained model on a task, for `titans eval TASK`: lengths, depths, a table."""

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeGuard

from rich.markup import escape
from rich.table import Table

from titans.baselines import BaselineLM, load_model
from titans.cli import corpus
from titans.cli.findings import machine
from titans.console import Console
from titans.data.pieces import encoded
from titans.data.tokenizer import ByteTokenizer
from titans.errors import TitansError
from titans.files import locked
from titans.models.language_model import TitansLM
from titans.parsing import parse
from titans.report.interval import interval, spelled
from titans.report.results import RESULTS_NAME, Results, TaskScore, read_results, write_results
from titans.tasks.babilong import Babilong
from titans.tasks.babilong_words import score_words
from titans.tasks.catalogue import READ_TEXT, TASKS, Choices, hides_in_text
from titans.tasks.sample import Task
from titans.tasks.score import Score, score
from titans.training.checkpoint import find_checkpoint, read_tokenizer
from titans.training.model import best_device
from titans.training.progress import Progress

_log = logging.getLogger("titans")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is measured."""

    lengths: Sequence[int]
    samples: int
    """per length and depth"""
    depths: int | None
    """so many places from the text's beginning to its end; None: anywhere"""
    seed: int
    batch_size: int
    piece: int


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One score, and where the needles lay."""

    depth: float | None
    score: Score

    @property
    def interval(self) -> tuple[float, float]:
        """What chance leaves of `score.right`."""
        return interval(self.score.right, self.score.samples)

    def to_dict(self) -> dict:
        """As JSON holds it."""
        return {"depth": self.depth} | self.score.to_dict() | {"right_interval": self.interval}


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Scores on their way into `folder/results.json`, where those of other models and tasks stay."""

    folder: Path
    model: str
    """its name there"""
    task: str
    command: str

    def begin(self) -> None:
        """Reads what is there and sees that it can be written.

        Raises:
            TitansError: the file is damaged, or cannot be written.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._change(lambda results: replace(results, created=now))

    def add(self, cell: Cell) -> None:
        """Writes a score down, in place of an earlier one of the same model, task, length and depth."""
        written = TaskScore(
            model=self.model,
            task=self.task,
            length=cell.score.length,
            accuracy=cell.score.right,
            tokens_accuracy=cell.score.tokens_right,
            samples=cell.score.samples,
            depth=cell.depth,
            command=self.command,
            machine=machine().summary,
        )
        new = parse(asdict(written), TaskScore)  # as it will be read again: a label may hold what cannot be printed
        self._change(lambda results: replace(results, scores=[*(s for s in results.scores if s.cell != new.cell), new]))

    def _change(self, change: Callable[[Results], Results]) -> None:
        """Changes what is there by now: others may be writing too."""
        with locked(self.folder):
            there = (self.folder / RESULTS_NAME).exists()
            write_results(
                self.folder, change(read_results(self.folder) if there else Results(title="What models remember"))
            )


def measure(
    checkpoint: Path, name: str, haystack: str | None, choices: Choices, asked: Asked, kept: Kept | None = None
) -> list[Cell]:
    """Reads the checkpoint and asks it.

    Args:
        haystack: text to hide things in; None for what the run held out.
        kept: takes each score as soon as it is there.

    Raises:
        TitansError: no checkpoint, no such task, a length that is too short, or a model with too few tokens.
    """
    if name not in TASKS:
        raise TitansError(f"there is no task {name!r}; choose one of {', '.join(TASKS)}")
    tokenizer = read_tokenizer(find_checkpoint(checkpoint))
    if name in READ_TEXT:
        choices = replace(choices, tokenizer=tokenizer)
    elif not isinstance(tokenizer, ByteTokenizer):
        raise TitansError(f"the task {name!r} has tokens of its own, and {checkpoint} reads pieces of words")
    else:
        corpus.require_its_task(checkpoint, name)
    if name == "babilong":
        _tasks(name, choices, asked)  # its files and the lengths, before a long text is read
    cells: list[Cell] = []
    with tempfile.TemporaryDirectory() as spool:
        documents = None if haystack is None else corpus.documents(haystack, spool=Path(spool))  # needed or not
        if hides_in_text(name, choices) and any(asked.lengths):
            documents = documents or corpus.held_out(checkpoint, "--haystack")
            choices = replace(choices, haystack=encoded(documents, tokenizer))
            _say_if_repeated(sum(map(len, choices.haystack)), max(asked.lengths))
        tasks = _tasks(name, choices, asked)
        model = load_model(checkpoint).to(best_device())
        vocabulary, known = tasks[0][1].vocab_size, model.config.vocab_size
        if vocabulary != known:
            options = {"mqar": f"--vocab-size {known}", "state-tracking": "its --problem and --tokens-each"}.get(name)
            remedy = f"if it has learned {name}, give {options}" if options else "it has learned other tokens"
            raise TitansError(f"the task {name!r} has {vocabulary} tokens and the model knows {known}: {remedy}")
        if kept is not None:
            kept.begin()
        try:
            for cell in _cells(model, tasks, asked):
                if kept is not None:
                    kept.add(cell)
                cells.append(cell)
        except KeyboardInterrupt:
            where = f"its scores are in {kept.folder}" if kept is not None and cells else ""
            raise KeyboardInterrupt(where) from None
    return cells


def _say_if_repeated(there: int, longest: int) -> None:
    """What a score of long samples then is of."""
    if there < longest:
        _log.warning(
            "the text to hide things in has %s tokens: in a sample of %s some come again", f"{there:,}", f"{longest:,}"
        )


def _tasks(name: str, choices: Choices, asked: Asked) -> list[tuple[float | None, Task]]:
    """The task at each depth, None for anywhere. TitansError if a length does not fit."""
    depths = [None] if asked.depths is None else [n / max(1, asked.depths - 1) for n in range(asked.depths)]
    tasks = [(depth, TASKS[name](replace(choices, depth=depth))) for depth in depths]
    for length in asked.lengths:
        if 0 < length < tasks[0][1].shortest:
            raise TitansError(f"--length {length} is too short for {name}: it takes {tasks[0][1].shortest} tokens")
    return tasks


def _cells(model: TitansLM | BaselineLM, tasks: Sequence[tuple[float | None, Task]], asked: Asked) -> Iterator[Cell]:
    exact = 0 not in asked.lengths and not _in_own_words(tasks[0][1])  # facts alone and prompts are as long as they are
    total = sum(asked.lengths) * asked.samples * len(tasks) if exact else None
    with Progress("eval", total=total, unit="tokens") as progress:
        for length in asked.lengths:
            for depth, task in tasks:
                found = _scorer(model, task)(
                    length,
                    asked.samples,
                    seed=asked.seed if depth is None else (asked.seed, round(1000 * depth)),  # other samples at each
                    batch_size=asked.batch_size,
                    piece=asked.piece,
                    progress=progress,
                )
                yield Cell(depth=depth, score=found)


def _in_own_words(task: Task) -> TypeGuard[Babilong]:
    """Whether a prompt has examples of answers, so that the model says its own."""
    return isinstance(task, Babilong) and task.mode == "fewshot"


def _scorer(model: TitansLM | BaselineLM, task: Task) -> Callable[..., Score]:
    """Asks for given answers, or lets the model say its own."""
    if _in_own_words(task):
        return partial(score_words, model, task)
    return partial(score, model, task)


def show(task: str, checkpoint: Path, seed: int, cells: Sequence[Cell], *, as_json: bool) -> None:
    """Prints the table, or the same as JSON; task: with its kind."""
    if as_json:
        what = {"task": task, "checkpoint": str(checkpoint), "seed": seed}
        print(json.dumps(what | {"scores": [cell.to_dict() for cell in cells]}, indent=2))
        return
    table = Table(title=escape(f"{task}, {checkpoint}"))
    for heading in ("tokens", "depth", "samples", "right", "95 % sure", "tokens right"):
        table.add_column(heading, justify="right")
    for cell in cells:
        found = cell.score
        depth = "any" if cell.depth is None else f"{cell.depth:.0%}"
        tokens = "" if found.tokens_right is None else f"{found.tokens_right:.1%}"
        right = f"{found.right:.1%}", spelled(cell.interval)
        table.add_row(f"{found.length:,}", depth, str(found.samples), *right, tokens)
    Console().print(table)

"""Scores of a trained model on a task, for `titans eval TASK`: lengths, depths, a table."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from titans.baselines import BaselineLM, load_model
from titans.cli import corpus
from titans.errors import TitansError
from titans.models.language_model import TitansLM
from titans.tasks.catalogue import NEED_TEXT, TASKS, Choices
from titans.tasks.score import Score, score
from titans.training.model import best_device
from titans.training.progress import Progress


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

    def to_dict(self) -> dict:
        """As JSON holds it."""
        return {"depth": self.depth} | self.score.to_dict()


def measure(checkpoint: Path, name: str, haystack: str | None, choices: Choices, asked: Asked) -> list[Cell]:
    """Reads the checkpoint and asks it.

    Args:
        haystack: text to hide things in; None for what the run held out.

    Raises:
        TitansError: no checkpoint, no such task, a length that is too short, or a model with too few tokens.
    """
    if name not in TASKS:
        raise TitansError(f"there is no task {name!r}; choose one of {', '.join(TASKS)}")
    model = load_model(checkpoint).to(best_device())
    with tempfile.TemporaryDirectory() as spool:
        if name in NEED_TEXT:
            held_out = haystack is None
            documents = corpus.held_out(checkpoint) if held_out else corpus.documents(haystack, spool=Path(spool))
            choices = replace(choices, haystack=documents)
        return _cells(model, name, choices, asked)


def _cells(model: TitansLM | BaselineLM, name: str, choices: Choices, asked: Asked) -> list[Cell]:
    depths = [None] if asked.depths is None else [n / max(1, asked.depths - 1) for n in range(asked.depths)]
    tasks = [(depth, TASKS[name](replace(choices, depth=depth))) for depth in depths]
    vocabulary, known = tasks[0][1].vocab_size, model.config.vocab_size
    if vocabulary > known:
        raise TitansError(
            f"the task {name!r} has {vocabulary} tokens and the model knows {known}: it was trained with other tokens"
        )
    for length in asked.lengths:
        if length < tasks[0][1].shortest:
            raise TitansError(f"--length {length} is too short for {name}: it takes {tasks[0][1].shortest} tokens")
    total = sum(asked.lengths) * asked.samples * len(depths)
    with Progress("eval", total=total, unit="tokens") as progress:
        return [
            Cell(
                depth=depth,
                score=score(
                    model,
                    one,
                    length,
                    asked.samples,
                    seed=asked.seed,
                    batch_size=asked.batch_size,
                    piece=asked.piece,
                    progress=progress,
                ),
            )
            for length in asked.lengths
            for depth, one in tasks
        ]


def show(name: str, cells: Sequence[Cell], *, as_json: bool) -> None:
    """Prints the table, or the same as JSON."""
    if as_json:
        print(json.dumps({"task": name, "scores": [cell.to_dict() for cell in cells]}, indent=2))
        return
    table = Table(title=name)
    for heading in ("tokens", "depth", "samples", "right", "tokens right"):
        table.add_column(heading, justify="right")
    for cell in cells:
        found = cell.score
        depth = "any" if cell.depth is None else f"{cell.depth:.0%}"
        table.add_row(f"{found.length:,}", depth, str(found.samples), f"{found.right:.1%}", f"{found.tokens_right:.1%}")
    Console().print(table)

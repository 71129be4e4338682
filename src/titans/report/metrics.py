"""The log of one training run, `metrics.jsonl`, as results to report."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from titans.errors import TitansError
from titans.parsing import parse
from titans.report.results import Results, Training, TrainingPoint

METRICS_NAME = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class _Batch:
    tokens: int
    seconds: float
    bits_per_token: float | None


@dataclass(frozen=True, kw_only=True)
class _Validation:
    tokens: int
    seconds: float
    validation_bits_per_token: float | None


def read_training(folder: Path) -> Training | None:
    """The curve of `folder/metrics.jsonl`, None before its first line; errors as in `read_metrics`."""
    points = read_curve(folder)
    name = Path(os.path.realpath(Path(folder) / METRICS_NAME)).parent.name
    return Training(curves={name: points}, unit="bits per token") if points else None


def read_metrics(folder: Path) -> Results:
    """Reads `folder/metrics.jsonl`: one JSON object a line, each with `tokens`, `seconds` and either
    `bits_per_token` (a training batch) or `validation_bits_per_token` (held-out text).

    A last line without its line end is a run that is still writing, and is left out.

    Raises:
        TitansError: the file cannot be read, or a line is damaged or lacks a key (the message names the line).
    """
    training = read_training(folder)
    if training is None:
        raise TitansError(f"{Path(folder) / METRICS_NAME} is empty: there is nothing to report yet")
    return Results(title=f"Training run {next(iter(training.curves))}", training=training)


def read_curve(folder: Path) -> list[TrainingPoint]:
    """The points of `folder/metrics.jsonl`, in the order they were written; errors as in `read_metrics`."""
    path = Path(folder) / METRICS_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TitansError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    points = []
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        if not line.strip():
            continue
        try:
            points.append(_read_line(line))
        except ValueError as error:
            raise TitansError(f"{path}, line {number}: {error}") from error
    return points


def _read_line(line: str) -> TrainingPoint:
    value = json.loads(line)
    if isinstance(value, dict) and "validation_bits_per_token" in value:
        held_out = parse(value, _Validation)
        bits = held_out.validation_bits_per_token
        return TrainingPoint(tokens=held_out.tokens, seconds=held_out.seconds, bits=bits, validation=True)
    batch = parse(value, _Batch)
    return TrainingPoint(tokens=batch.tokens, seconds=batch.seconds, bits=batch.bits_per_token)

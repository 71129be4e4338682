"""What the quickstart found, as sections of the report and as words."""

import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch

from titans.cli.processors import processors
from titans.data.batches import TokenDocument
from titans.models.config import TitansConfig
from titans.models.presets import num_parameters
from titans.report.results import Distance, Machine, ModelSummary, Results, Stream, StreamPoint
from titans.training.evaluate import DISTANCES, Evaluation
from titans.training.loop import TrainResult
from titans.training.stream import StreamMoment

MODEL, MEMORY = "model", "memory.safetensors"
"""What the quickstart leaves to be used further."""


class Planned(Protocol):
    """A model that is going to be trained."""

    @property
    def label(self) -> str: ...

    @property
    def config(self) -> TitansConfig: ...

    @property
    def steps(self) -> int: ...


def introduction(
    planned: Iterable[Planned], train: Sequence[TokenDocument], held_out: Sequence[TokenDocument], minutes: float
) -> str:
    """What is about to happen."""
    rows = [f"  {each.label:<24}{num_parameters(each.config):>9,} parameters{each.steps:>7,} steps" for each in planned]
    sizes = [
        f"{sum(map(len, documents)) / 1e6:.1f} MB in {len(documents)} documents" for documents in (train, held_out)
    ]
    return "\n".join(
        [
            f"Training on {sizes[0]}, half of the rows with hidden pass keys; {sizes[1]} are held out.",
            *rows,
            f"This takes about {minutes:g} minutes.",
        ]
    )


def command() -> str:
    """What was typed, so that it can be typed again."""
    return shlex.join(["titans", *sys.argv[1:]])


def machine() -> Machine:
    """The processor and the versions."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    return Machine(
        processor=_processor(),
        cores=processors(),
        memory_gb=round(memory, 1),
        python=platform.python_version(),
        torch=torch.__version__,
    )


def settings(config: TitansConfig, *, text: str | None, seed: int, minutes: float) -> dict:
    """What was chosen, by name."""
    memory = config.memory
    return {
        "text": text or "the Python standard library's sources",
        "variant": config.variant,
        "dim": config.dim,
        "blocks": config.num_layers,
        "attention window": config.window_size,
        "memory heads": memory.num_heads,
        "memory depth": memory.depth,
        "chunk": memory.chunk_size,
        "seed": seed,
        "minutes taken": round(minutes, 1),
    }


def summary(label: str, config: TitansConfig, result: TrainResult, evaluation: Evaluation) -> ModelSummary:
    """One trained model."""
    return ModelSummary(
        label=label,
        parameters=num_parameters(config),
        train_tokens=result.tokens,
        train_seconds=round(result.seconds, 1),
        final_bits_per_byte=evaluation.bits_per_token,
    )


def by_distance(evaluations: Mapping[str, Evaluation]) -> Distance:
    """Bits per byte by distance into the document, for every way of reading."""
    measured = next(iter(evaluations.values())).by_distance
    longest = 4 * DISTANCES[-1]
    return Distance(
        buckets=[(bucket.start, bucket.stop or longest) for bucket in measured],
        series={
            name: [bucket.bits_per_token for bucket in evaluation.by_distance]
            for name, evaluation in evaluations.items()
        },
        bytes=[bucket.tokens for bucket in measured],
    )


def streamed(moments: Iterable[StreamMoment]) -> Stream:
    """The long reading."""
    points = [
        StreamPoint(
            tokens=moment.tokens,
            seconds=moment.seconds,
            resident_mb=moment.resident_mb,
            tokens_per_second=moment.tokens_per_second,
            bits_per_byte=moment.bits_per_token,
        )
        for moment in moments
    ]
    return Stream(points=points)


def notes(evaluations: Mapping[str, Evaluation], minutes: float) -> list[str]:
    """What these numbers do not show."""

    def verdict(series: str) -> str:
        gain = evaluations[series].bits_per_token - evaluations["memory on"].bits_per_token
        return f"{abs(gain):.3f} bits per byte {'better' if gain > 0 else 'worse'}"

    return [
        f"Over all distances Titans predicts this text {verdict('control')} than the control after as many tokens, and "
        f"{verdict('control, equal time')} than the control after as much time. One seed and one text: a difference of "
        "a few thousandths is noise.",
        f"Small models, trained for minutes ({minutes:g} in all): nothing here says how a large one behaves.",
        "The memory is linear (depth 1), the variant that learns recall fastest at this size.",
        "Half of the training rows contain pass keys, for every model alike; without them recall takes far longer to "
        "appear.",
    ]


def show(results: Results, out: Path, report: Path) -> None:
    """Prints the closing table and what to try next."""
    from rich.table import Table

    from titans.console import Console

    assert results.distance is not None
    assert results.recall is not None
    assert results.stream is not None
    table = Table(title=results.title)
    for column in ("", "params", "tokens", "seconds", "bits/byte", "recall"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for name, model in results.models.items():
        recall = results.recall.beyond_window(name) if name in results.recall.accuracy else None
        table.add_row(
            model.label,
            f"{model.parameters:,}",
            f"{model.train_tokens:,}",
            f"{model.train_seconds:.0f}",
            f"{model.final_bits_per_byte:.3f}",
            "" if recall is None else f"{recall:.0%}",
        )
    console = Console()
    console.print(table)
    last, first = results.stream.points[-1], results.stream.points[len(results.stream.points) // 10]
    console.print(
        f"Read {last.tokens:,} tokens in {last.seconds:.0f} s; memory of the process {first.resident_mb:.0f} MB after "
        f"{first.tokens:,} tokens, {last.resident_mb:.0f} MB at the end.",
        soft_wrap=True,
    )
    console.print(f"\nReport: {report}\n\nTry next:", soft_wrap=True, highlight=False, markup=False)
    model, memory = (shlex.quote(str(out / name)) for name in (MODEL, MEMORY))
    for command in (
        f'titans generate --checkpoint {model} --prompt "def "',
        f'titans generate --checkpoint {model} --state {memory} --prompt "class "',
        "titans train --text PATH_TO_YOUR_FILES --out runs/mine",
    ):
        console.print(f"  {command}", soft_wrap=True, highlight=False, markup=False)


def _processor() -> str:
    """Its name and the widest vectors that torch uses on it, as two kinds can have one name; and a GPU's, if any."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2] for line in info.read_text().splitlines() if line.startswith("model name")]
        if (info.exists())
        else []
    )
    name = names[0].strip() if names else platform.processor() or platform.machine()
    name = f"{name} ({torch.backends.cpu.get_cpu_capability()})"
    return f"{name}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else name

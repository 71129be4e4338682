"""Measure speed and memory, side by side: the contenders take turns in one process.

Example:
    titans bench memory --threads 1 2
    titans bench decode --out runs/bench        (also writes decode.json and decode.svg there)

Ratios hold within a run; the machine is never the same for long. Beside other packages: make bench, and on a GPU
make bench-gpu.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from titans.cli.imports import import_torch
from titans.cli.processors import processors
from titans.errors import TitansError

if TYPE_CHECKING:
    from titans.bench.results import Measurements

Subject = Literal["memory", "model", "decode", "stream"]


def run(
    subject: Annotated[Positional[Subject], arg(metavar="{memory,model,decode,stream}")],
    *,
    threads: Annotated[tuple[int, ...], arg(metavar="N [N ...]")] = (1,),
    rounds: int = 7,
    quick: bool = False,
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: the table only)")] = None,
    json: bool = False,
) -> None:
    """Compares our own forms: native, chunked and reference; the variants and the control; short and long pasts.

    Args:
        subject: the memory alone, a training step, one token at a time, or how cost grows with length and rows
        threads: processor threads; with several numbers everything is measured with each
        rounds: turns of every contender; medians and quartiles are over these
        quick: tiny sizes and no measurement of memory, to see that it works
        out: folder for SUBJECT.json and SUBJECT.svg, written after every table
        json: print the result as JSON
    """
    if rounds < 1:
        raise TitansError(f"--rounds is {rounds}; it must be at least 1")
    most = processors()
    if not threads or min(threads) < 1 or max(threads) > most:
        given = " ".join(map(str, threads)) or "empty"
        raise TitansError(f"--threads is {given}; each must be from 1 to {most}, the processors that there are")
    import_torch()
    if out is not None:
        from titans.files import require_writable_files

        require_writable_files(*_files(out, subject))
    with tempfile.TemporaryDirectory() as folder:
        measurements = _measure(subject, threads, rounds, quick, Path(folder), out)
    if json:
        from json import dumps

        print(dumps(measurements.to_dict(), indent=2))
    else:
        from titans.bench.table import show

        for outcome in measurements.outcomes:
            show(outcome)


def _measure(
    subject: Subject, threads: tuple[int, ...], rounds: int, quick: bool, folder: Path, out: Path | None
) -> "Measurements":
    from titans.bench.results import measure
    from titans.bench.subjects import contests
    from titans.cli.findings import command, machine

    return measure(
        subject,
        contests(subject, folder, quick=quick),
        rounds=rounds,
        threads=threads,
        peaks=not quick,
        command=command(),
        machine=machine(),
        keep=None if out is None else partial(_write, out),
    )


def _write(out: Path, measurements: "Measurements") -> None:
    from titans.bench.figure import draw
    from titans.files import write_json

    numbers, picture = _files(out, measurements.subject)
    write_json(numbers, measurements.to_dict())
    draw(measurements.outcomes, picture)


def _files(out: Path, subject: str) -> tuple[Path, Path]:
    return out / f"{subject}.json", out / f"{subject}.svg"

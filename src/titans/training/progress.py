"""Progress of long work: a bar on a terminal, otherwise a plain line every few seconds."""

import sys
import time
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

_SECONDS_PER_LINE = 5.0


class Progress:
    """Shows how far work has come, how fast it goes and how long it will take.

        with Progress("train", total=1_000_000, unit="tokens") as progress:
            progress.advance(4096, loss=2.31)

    Args:
        name: the work, in a word or two.
        total: units in all; None if nobody knows.
        unit: what is counted, in the plural.
        stream: where it is shown; None is standard error, so that standard output stays the program's own.
    """

    def __init__(
        self, name: str, *, total: int | None = None, unit: str = "steps", stream: TextIO | None = None
    ) -> None:
        self._name = name
        self._total = total
        self._unit = unit
        self._stream = stream if stream is not None else sys.stderr
        self._done = 0
        self._skipped = 0
        self._said = 0
        self._values = ""
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        self._started = self._shown = time.monotonic()
        if self._stream.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[facts]}"))
            self._bar = Bar(*columns, console=Console(file=self._stream))
            self._task = self._bar.add_task(self._name, total=self._total, facts="")
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._show_bar()
            self._bar.stop()
        elif self._done > self._said:
            self._show_line()

    def skip(self, count: int) -> None:
        """Counts units that an earlier run did: part of the total, not of the rate."""
        self._skipped += count
        self._done += count
        self._said = self._done

    def advance(self, count: int, **values: float) -> None:
        """Counts `count` more units; `values` (a loss, say) are shown beside them."""
        self._done += count
        self._values = "".join(f"  {name} {value:.4g}" for name, value in values.items())
        now = time.monotonic()
        if self._bar is not None:
            self._show_bar()
        elif now - self._shown >= _SECONDS_PER_LINE:
            self._shown = now
            self._show_line()

    def _show_bar(self) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, facts=self._facts())

    def _show_line(self) -> None:
        self._said = self._done
        print(f"{self._name}  {self._facts()}", file=self._stream, flush=True)

    def _facts(self) -> str:
        rate = (self._done - self._skipped) / max(time.monotonic() - self._started, 1e-9)
        if self._total is None:
            return f"{self._done:,} {self._unit}  {_short(rate)} {self._unit}/s{self._values}"
        left = _clock((self._total - self._done) / rate) if rate > 0 else "?"
        percent = 100 * self._done // max(self._total, 1)
        counted = f"{self._done:,}/{self._total:,} {self._unit}  {percent}%"
        return f"{counted}  {_short(rate)} {self._unit}/s  {left} left{self._values}"


def _short(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:.1f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"

"""Results that are added to one file, run after run, and work on them in several processes."""

import multiprocessing
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

import torch

from titans.cli.findings import machine
from titans.files import read_json, write_json

_Job = TypeVar("_Job")


class Records:
    """Runs, each with the machine that it was made on, and every command that made one.

    Args:
        path: of a JSON file; what is there is read.
        script: name of the benchmark, which this process runs.
        about: what is true of all runs; another file is needed for others.
        summarise: what is written beside the runs, made of them.
    """

    def __init__(
        self,
        path: Path,
        script: str,
        about: dict | None = None,
        summarise: Callable[[list[dict]], dict] | None = None,
    ) -> None:
        self.path, self.about, self.summarise = path, about or {}, summarise
        there = read_json(path) if path.exists() else {}
        different = [name for name, value in self.about.items() if there and there.get(name) != value]
        if different:
            raise SystemExit(f"{path} holds results of other {different[0]}: choose another --out")
        self.runs: list[dict] = there.get("runs", [])
        self._commands: list[str] = there.get("commands", [])
        self._command = shlex.join(["python", f"benchmarks/{script}", *sys.argv[1:]])

    def add(self, run: dict) -> None:
        """Adds a run and writes all."""
        self.runs.append(run | {"machine": machine().summary})
        self._commands = [*dict.fromkeys([*self._commands, self._command])]
        self.write()

    def write(self) -> None:
        summary = {} if self.summarise is None else {"summary": self.summarise(self.runs)}
        write_json(self.path, {"commands": self._commands} | self.about | {"runs": self.runs} | summary)


def in_processes(
    work: Callable[[_Job], dict], jobs: Sequence[_Job], workers: int, every: float | None = None
) -> Iterator[dict | None]:
    """What `work` says of each job, as soon as it is known; None after `every` seconds without any.

    Each process computes on one thread. No job waits in the pool, where an interrupt or a failure would start it.
    """
    todo, running = list(jobs), set[Future[dict]]()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        while todo or running:
            while todo and len(running) < workers:
                running.add(pool.submit(work, todo.pop(0)))
            done, running = wait(running, every, FIRST_COMPLETED)
            if not done:
                yield None
            for future in done:
                yield future.result()

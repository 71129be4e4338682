"""How much memory work needs: the most that a fresh process held during it, less what it held before."""

import gc
import multiprocessing
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from titans.training.interrupt import hold_interrupts
from titans.training.stream import resident_mb

if TYPE_CHECKING:
    from titans.bench.contest import Work

RUNS = 2  # an optimiser's moments come with the first step, and are there beside the gradients in the second


def peak_mb(make: "Callable[[], Work]", threads: int) -> float:
    """Megabytes that the work needs beyond what it is made of (parameters, inputs), in a process begun for it.

    On a GPU: of the GPU's memory. Libraries allocate buffers when they are first used; these are included.

    Raises:
        RuntimeError: the process failed or was killed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_peak, args=(make, threads, sender), daemon=True)
    with hold_interrupts():  # a Ctrl-C is for this process, which then ends the other
        process.start()
    sender.close()
    try:
        found = receiver.recv()
    except EOFError:
        raise RuntimeError("its process was killed; perhaps there was not enough memory") from None
    finally:
        process.kill()
        process.join()
    if isinstance(found, str):
        raise RuntimeError(found)
    return found


def _send_peak(make: "Callable[[], Work]", threads: int, sender: Connection) -> None:
    try:
        sender.send(_measure(make, threads))
    except Exception as error:
        sender.send(f"{type(error).__name__}: {error}")


def _measure(make: "Callable[[], Work]", threads: int) -> float:
    torch.set_num_threads(threads)
    work = make()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 1e6
    else:
        _forget_peak()
        before = resident_mb()
    for _ in range(RUNS):
        work.run()
    highest = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else highest_mb()
    return round(highest - before, 2)


def _forget_peak() -> None:
    """Lets `highest_mb` begin anew; where the system cannot, it remembers what happened before as well."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def highest_mb() -> float:
    """The most memory that this process has had in use, in megabytes."""
    # Not getrusage where there is a choice: what it says survives exec, so that a process inherits its parent's peak.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3

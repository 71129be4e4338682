"""One endless text through a model: how fast, and with how much memory of the machine."""

import ctypes
import math
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from titans.data.batches import TokenDocument
from titans.models.language_model import TitansLM
from titans.models.state import LMState
from titans.training.progress import Progress


@dataclass(frozen=True)
class StreamMoment:
    """A measurement while a text goes by."""

    tokens: int
    """read so far"""
    seconds: float
    """since the start"""
    resident_mb: float
    """memory of the process"""
    tokens_per_second: float
    """since the moment before"""
    bits_per_token: float
    """since the moment before"""


@torch.no_grad()
def stream(
    model: TitansLM,
    documents: Sequence[TokenDocument],
    tokens: int,
    progress: Progress,
    *,
    piece: int = 2048,
    moments: int = 50,
    state: LMState | None = None,
) -> tuple[list[StreamMoment], LMState]:
    """Reads documents one after the other as a single text, without ever resetting the memory.

    Args:
        documents: read from the first again when they end.
        tokens: how many to read.
        piece: tokens per call.
        moments: measurements to take, evenly spaced.
        state: what an earlier call returned, to go on from.

    Returns:
        The measurements, each after freed memory has been given back to the system, and the state after the last token.
    """
    taken, read, nats, since = [], 0, 0.0, 0
    started = mark = time.perf_counter()
    due = tokens / moments
    for window in _windows(documents, tokens, piece):
        inputs = torch.from_numpy(window[:-1]).unsqueeze(0)
        logits, state = model(inputs, state)
        nats += F.cross_entropy(logits[0], torch.from_numpy(window[1:]), reduction="sum").item()
        read, since = read + len(window) - 1, since + len(window) - 1
        progress.advance(len(window) - 1, resident_mb=resident_mb())
        if read >= due * (len(taken) + 1) or read == tokens:
            now = time.perf_counter()
            release_freed_memory()
            bits = nats / since / math.log(2)
            taken.append(StreamMoment(read, now - started, resident_mb(), since / (now - mark), bits))
            mark, nats, since = now, 0.0, 0
    assert state is not None
    return taken, state


def release_freed_memory() -> None:
    """Gives back to the system what the C library (glibc's; others have no such call) keeps of freed memory."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def resident_mb() -> float:
    """Memory of this process that is in use, in megabytes; where the system does not say, the most it ever was."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def _windows(documents: Sequence[TokenDocument], tokens: int, piece: int) -> Iterator[np.ndarray]:
    """Pieces of the text with the token that follows each, [piece + 1]."""
    pending = np.empty(0, np.int64)
    left = tokens
    while left > 0:
        for document in documents:
            # Small blocks: large ones, each of another size, would leave more and more holes in the process's memory.
            for start in range(0, len(document), piece):
                pending = np.concatenate([pending, document.tokens(start, min(start + piece, len(document)))])
                while left > 0 and len(pending) > min(piece, left):
                    size = min(piece, left)
                    yield pending[: size + 1]
                    pending, left = pending[size:], left - size
                if left == 0:
                    return

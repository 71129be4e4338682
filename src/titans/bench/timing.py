"""Times: work in turns, medians and quartiles, and the matrix product that rates are compared with."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

MATRIX_SIZE, GPU_MATRIX_SIZE = 1024, 8192  # large enough to occupy either
PRODUCTS = 10  # in one turn: a single one is over before the processor has settled


@dataclass(frozen=True, kw_only=True)
class Quartiles:
    """A quarter of the values is below `low`, half below `median`, three quarters below `high`."""

    low: float
    median: float
    high: float


def quartiles(values: Sequence[float]) -> Quartiles:
    """Of one value or more."""
    if len(values) == 1:
        return Quartiles(low=values[0], median=values[0], high=values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Quartiles(low=low, median=median, high=high)


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """While this lasts, torch computes with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_turns(
    works: Mapping[str, Callable[[], object]], rounds: int, after_each: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of every work in every round: A B C, A B C, ..."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            begun = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - begun)
            after_each()
    return seconds


def matrix_products(device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[int, Callable[[], object]]:
    """Operations (a multiplication and an addition are two) of some large matrix products, and the products."""
    size = MATRIX_SIZE if device.type == "cpu" else GPU_MATRIX_SIZE
    matrix = torch.randn(size, size, device=device, dtype=dtype)

    def run() -> None:
        for _ in range(PRODUCTS):
            torch.mm(matrix, matrix)

    return 2 * size**3 * PRODUCTS, run

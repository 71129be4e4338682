"""Contests: pieces of work that take turns in one process, and what is measured of each.

The machine is never the same for long (other work, clock, heat), so nothing is compared across runs: A B A B, round
after round, and each ratio is that of two times of the same round. How much memory the work needs is measured in a
fresh process for each, because a process keeps what earlier work gave back.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from titans.bench.peak import peak_mb
from titans.bench.timing import Quartiles, in_turns, matrix_products, quartiles, using_threads
from titans.training.model import best_device
from titans.training.progress import Progress

_MATRIX = "matrix product"


@dataclass(frozen=True, kw_only=True)
class Work:
    """Something built and ready to be done again and again."""

    run: Callable[[], object]
    parameters: int | None = None
    """trained parameters of the model, where it is one"""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to do the work."""

    name: str
    make: Callable[[], Work]
    """builds everything; can be pickled, for a process of its own"""
    tokens: int
    """in one run of the work"""
    flops: int | None = None
    """of the matrix products in one run of the work, where they are counted"""
    ours: bool = True
    """False: of another package"""


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Those that are compared."""

    title: str
    base: str
    """the contender that ratios refer to"""
    contenders: tuple[Contender, ...]
    products: torch.dtype = torch.float32
    """of the matrix product that rates are compared with"""

    @property
    def counted(self) -> bool:
        """Whether the matrix product takes its turn as well."""
        return any(contender.flops for contender in self.contenders)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured of one contender."""

    name: str
    tokens: int
    """in one run of the work"""
    ours: bool = True
    problem: str | None = None
    """why nothing was measured; the rest is then empty"""
    tokens_per_second: Quartiles | None = None
    speed: Quartiles | None = None
    """tokens per second as a multiple of the base's, round by round"""
    of_matrix_product: Quartiles | None = None
    """counted operations per second as a share of a large matrix product's in the same round"""
    peak_mb: float | None = None
    """the most memory during the work beyond what was there before it, in a fresh process"""
    parameters: int | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A contest that was held."""

    title: str
    base: str
    threads: int
    results: list[Result]
    matrix_product_gflops: Quartiles | None = None
    """billions of operations per second of the matrix product that shares refer to"""

    def of(self, name: str) -> Result | None:
        """The result of one contender, if it was measured."""
        return next((result for result in self.results if result.name == name and result.problem is None), None)


def turns(contest: Contest, rounds: int) -> int:
    """How often `hold` advances the progress if nothing fails."""
    return (len(contest.contenders) + contest.counted) * rounds + 2 * len(contest.contenders)


def hold(contest: Contest, *, rounds: int, threads: int, peaks: bool, progress: Progress) -> Outcome:
    """Measures every contender; one that fails is reported and does not stop the others.

    Args:
        peaks: measure memory too, which begins a process for each contender.
    """
    flops, product = matrix_products(best_device(), contest.products)
    with using_threads(threads):
        seconds, parameters, problems = _take_turns(contest, product, rounds, progress)
    results = []
    for contender in contest.contenders:
        name = contender.name
        if name in problems:
            result = Result(name=name, tokens=contender.tokens, ours=contender.ours, problem=problems[name])
        else:
            speed, share = _relative(contender, contest, seconds, flops)
            result = Result(
                name=name,
                tokens=contender.tokens,
                ours=contender.ours,
                tokens_per_second=quartiles([contender.tokens / taken for taken in seconds[name]]),
                speed=speed,
                of_matrix_product=share,
                peak_mb=_peak(contender, threads) if peaks else None,
                parameters=parameters[name],
            )
        results.append(result)
        progress.advance(1)
    rates = quartiles([flops / taken / 1e9 for taken in seconds[_MATRIX]]) if contest.counted else None
    return Outcome(
        title=contest.title, base=contest.base, threads=threads, results=results, matrix_product_gflops=rates
    )


def _take_turns(
    contest: Contest, product: Callable[[], object], rounds: int, progress: Progress
) -> tuple[dict[str, list[float]], dict[str, int | None], dict[str, str]]:
    """By name: seconds of every round, parameters, and what went wrong. Everything built is given up again."""
    works: dict[str, Work] = {}
    problems: dict[str, str] = {}
    for contender in contest.contenders:
        try:
            work = contender.make()
            work.run()
            works[contender.name] = work
        except Exception as error:
            problems[contender.name] = one_line(error)
            progress.advance(rounds)
        progress.advance(1)
    runs = {name: work.run for name, work in works.items()} | ({_MATRIX: product} if contest.counted else {})
    seconds = in_turns(runs, rounds, lambda: progress.advance(1))
    return seconds, {name: work.parameters for name, work in works.items()}, problems


def _peak(contender: Contender, threads: int) -> float | None:
    try:
        return peak_mb(contender.make, threads)
    except RuntimeError as error:
        print(f"{contender.name}: memory not measured: {error}", file=sys.stderr, flush=True)
        return None


def _relative(
    contender: Contender, contest: Contest, seconds: Mapping[str, Sequence[float]], matrix_flops: int
) -> tuple[Quartiles | None, Quartiles | None]:
    """Speed as a multiple of the base's, and rate as a share of the matrix product's, round by round."""
    taken, speed, share = seconds[contender.name], None, None
    base = next(other for other in contest.contenders if other.name == contest.base)
    if base.name in seconds:
        tokens = contender.tokens / base.tokens
        speed = quartiles([tokens * other / own for other, own in zip(seconds[base.name], taken, strict=True)])
    if contender.flops:
        flops = contender.flops / matrix_flops
        share = quartiles([flops * other / own for other, own in zip(seconds[_MATRIX], taken, strict=True)])
    return speed, share


def one_line(error: Exception) -> str:
    """What went wrong, for a person."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__

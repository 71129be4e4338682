"""What the speed was meant to be, and what was measured: the summary of docs/performance.md."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from peers import COARSEST, DELTANET, MAC, PER_TOKEN

from titans.bench.contest import Outcome
from titans.bench.gpu import names
from titans.bench.results import Measurements
from titans.bench.table import short

OURS = ("native, chunk 16", "native, chunk 64")
"""Forms that are compared with others. Chunks of 64 are what the other package's batches of 64 are."""

_Value = Callable[[Outcome], Iterator[float]]


@dataclass(frozen=True, kw_only=True)
class _Aim:
    words: str
    titles: str
    """what the outcomes' titles begin with"""
    values: _Value
    bound: float
    at_most: bool = False
    """the bound is the largest value wanted, not the smallest"""

    def holds(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound

    @property
    def wanted(self) -> str:
        return f"at {'most' if self.at_most else 'least'} {short(self.bound)}"


def _speed(contenders: tuple[str, ...], other: str, *, inverse: bool = False) -> _Value:
    """Speeds of some contenders as a multiple of another's; inverse: their durations."""

    def values(outcome: Outcome) -> Iterator[float]:
        than = outcome.of(other)
        for name in contenders:
            own = outcome.of(name)
            if own is not None and than is not None and own.speed is not None and than.speed is not None:
                ratio = own.speed.median / than.speed.median
                yield 1 / ratio if inverse else ratio

    return values


def _memory(outcome: Outcome) -> Iterator[float]:
    than = outcome.of(PER_TOKEN)
    for name in OURS:
        own = outcome.of(name)
        if own is not None and than is not None and own.peak_mb and than.peak_mb:
            yield (own.peak_mb / own.tokens) / (than.peak_mb / than.tokens)


def _share(name: str) -> _Value:
    def values(outcome: Outcome) -> Iterator[float]:
        own = outcome.of(name)
        if own is not None and own.of_matrix_product is not None:
            yield own.of_matrix_product.median

    return values


def _last(what: str) -> _Value:
    """The last contender against the base, in outcomes whose title has these words."""

    def values(outcome: Outcome) -> Iterator[float]:
        last = outcome.results[-1]
        if what in outcome.title and last.speed is not None:
            yield last.speed.median

    return values


_FORWARD, _BOTH, _STEP, _GPU = "layer, forward, D", "layer, forward + backward, D", "training step", "GPU layer"
_DEEP, _LINEAR = tuple(names()[:2]), tuple(names()[2:])
_AIMS = (
    _Aim(
        words="layer, training, speed against titans-pytorch per token",
        titles=_BOTH,
        values=_speed(OURS, PER_TOKEN),
        bound=80,
    ),
    _Aim(words="the same in its coarsest setting, chunks of 64", titles=_BOTH, values=_speed(OURS, COARSEST), bound=3),
    _Aim(
        words="layer, forward, speed against titans-pytorch per token",
        titles=_FORWARD,
        values=_speed(OURS, PER_TOKEN),
        bound=50,
    ),
    _Aim(words="the same in its coarsest setting", titles=_FORWARD, values=_speed(OURS, COARSEST), bound=3),
    _Aim(
        words="layer, training, memory as a share of titans-pytorch's per token",
        titles=_BOTH,
        values=_memory,
        bound=0.1,
        at_most=True,
    ),
    *(
        _Aim(
            words=f"operation of depth 2, {way}, chunk {C}, share of a matrix product's rate",
            titles=f"operation, {way}, D",
            values=_share(f"native, chunk {C}"),
            bound=bound,
        )
        for way, bound in (("forward", 0.6), ("forward + backward", 0.5))
        for C in (16, 64)
    ),
    _Aim(words="layer, training, 16 rows, speed against 1", titles="layer, ", values=_last("by rows"), bound=0.9),
    _Aim(
        words="layer, training, 16,384 tokens, speed against 1,024",
        titles="layer, ",
        values=_last("by length"),
        bound=0.9,
    ),
    _Aim(
        words="reading after a million tokens, speed against after a thousand",
        titles="reading",
        values=_last("by tokens"),
        bound=0.9,
    ),
    *(
        _Aim(
            words=f"training step, {name}, speed against titans-pytorch's MAC, its script",
            titles=_STEP,
            values=_speed((name,), MAC),
            bound=8,
        )
        for name in ("mac", "mag")
    ),
    *(
        _Aim(
            words=f"training step, {name}, duration against the control's",
            titles=_STEP,
            values=_speed((name,), "attention", inverse=True),
            bound=2.5,
            at_most=True,
        )
        for name in ("mac", "mag")
    ),
    _Aim(
        words="decoding after a million tokens, speed against after a thousand",
        titles="decoding",
        values=_last("by context"),
        bound=0.9,
    ),
    _Aim(words="decoding, 32 sessions, speed against 1", titles="decoding", values=_last("by sessions"), bound=8),
    _Aim(
        words="GPU, deep memory, speed against Gated DeltaNet", titles=_GPU, values=_speed(_DEEP, DELTANET), bound=0.6
    ),
    _Aim(words="GPU, linear memory, the same", titles=_GPU, values=_speed(_LINEAR, DELTANET), bound=0.9),
    _Aim(
        words="GPU, deep memory, speed against titans-pytorch per token",
        titles=_GPU,
        values=_speed(_DEEP, PER_TOKEN),
        bound=40,
    ),
)


def aims(found: Mapping[str, Measurements]) -> Iterator[str]:
    """A row for each aim that something was measured for: wanted, lowest to highest with each number of threads."""
    outcomes = [outcome for each in found.values() for outcome in each.outcomes]
    counts = sorted({outcome.threads for outcome in outcomes})
    yield f"| | wanted | {' | '.join(f'{n} thread' + 's' * (n > 1) for n in counts)} | reached |"
    yield "|---" * (len(counts) + 3) + "|"
    for aim in _AIMS:
        every, cells = [], []
        for count in counts:
            here = [o for o in outcomes if o.threads == count and o.title.startswith(aim.titles)]
            values = sorted(value for outcome in here for value in aim.values(outcome))
            every += values
            cells.append(
                " to ".join(dict.fromkeys(short(value) for value in (values[0], values[-1]))) if values else ""
            )
        if every:
            holds = [aim.holds(value) for value in every]
            reached = "yes" if all(holds) else "in part" if any(holds) else "no"
            yield f"| {aim.words} | {aim.wanted} | {' | '.join(cells)} | {reached} |"

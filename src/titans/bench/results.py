"""A subject's measurements as a file: what was measured, where, when and with which command."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import product

from titans.bench.contest import Contest, Outcome, hold, turns
from titans.parsing import parse
from titans.report.results import Machine
from titans.training.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """All contests of one subject."""

    subject: str
    command: str
    created: str
    machine: Machine
    packages: dict[str, str]
    """versions of the packages compared, by name"""
    rounds: int
    outcomes: list[Outcome]

    def to_dict(self) -> dict:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "Measurements":
        """What `to_dict` gave; ValueError names what is wrong."""
        return parse(values, cls)


def measure(
    subject: str,
    contests: Sequence[Contest],
    *,
    rounds: int,
    threads: Sequence[int],
    command: str,
    machine: Machine,
    peaks: bool = True,
    packages: Mapping[str, str] | None = None,
    keep: Callable[[Measurements], None] | None = None,
) -> Measurements:
    """Holds every contest with every number of threads; the arguments are fields of `Measurements` or go to `hold`.

    Args:
        keep: is given what there is after every contest, so that an interruption loses only the one being held.
    """
    found = Measurements(
        subject=subject,
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine,
        packages=dict(packages or {}),
        rounds=rounds,
        outcomes=[],
    )
    total = len(threads) * sum(turns(contest, rounds) for contest in contests)
    with Progress(subject, total=total, unit="turns") as progress:
        for contest, count in product(contests, threads):
            outcome = hold(contest, rounds=rounds, threads=count, peaks=peaks, progress=progress)
            found = replace(found, outcomes=[*found.outcomes, outcome])
            if keep is not None:
                keep(found)
    return found

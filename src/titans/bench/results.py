"""A subject's measurements as a file: what was measured, where, when and with which command."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

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
) -> Measurements:
    """Holds every contest with every number of threads; the arguments are fields of `Measurements` or go to `hold`."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    total = len(threads) * sum(turns(contest, rounds) for contest in contests)
    with Progress(subject, total=total, unit="turns") as progress:
        outcomes = [
            hold(contest, rounds=rounds, threads=count, peaks=peaks, progress=progress)
            for contest in contests
            for count in threads
        ]
    return Measurements(
        subject=subject,
        command=command,
        created=created,
        machine=machine,
        packages=dict(packages or {}),
        rounds=rounds,
        outcomes=outcomes,
    )

"""What a report is made of: the sections of `results.json`, their units, and how they are read and written.

Every section is optional: a report shows what is there. Model names that recur in `models`, `training`,
`recall.accuracy` and `scores` are free, but `titans`, `control` and `control_equal_time` get their colours from them;
in `distance.series` so do `memory on`, `memory frozen`, `control` and `control, equal time`.
"""

from collections import Counter
from collections.abc import Sequence, Sized
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean

from titans.errors import TitansError
from titans.files import read_json, write_json
from titans.parsing import parse

RESULTS_NAME = "results.json"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where the numbers were measured.

    Attributes:
        processor: the kind of processor, and of accelerator if there is one, in words.
        cores: processor cores that the run could use.
        memory_gb: main memory in gigabytes.
        python: version of Python.
        torch: version of PyTorch.
    """

    processor: str
    cores: int
    memory_gb: float
    python: str
    torch: str

    @property
    def summary(self) -> str:
        """What a number depends on, in a line."""
        return f"{self.processor}, Python {self.python}, torch {self.torch}"


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """One trained model.

    Attributes:
        label: the name that readers see.
        parameters: number of trained parameters.
        train_tokens: tokens that it was trained on.
        train_seconds: wall-clock seconds of training.
        final_bits_per_byte: on held-out text, after training.
    """

    label: str
    parameters: int
    train_tokens: int
    train_seconds: float
    final_bits_per_byte: float | None


@dataclass(frozen=True, kw_only=True)
class TrainingPoint:
    """One point of a training curve.

    Attributes:
        tokens: tokens seen so far.
        seconds: training seconds so far.
        bits: the loss, in the unit of the curves; None where it was not finite.
        validation: measured on held-out text rather than on the training batch.
    """

    tokens: int
    seconds: float
    bits: float | None
    validation: bool = False


@dataclass(frozen=True, kw_only=True)
class Training:
    """Training curves, by model, and the unit of their `bits`."""

    curves: dict[str, list[TrainingPoint]]
    unit: str = "bits per byte"

    def __post_init__(self) -> None:
        _check_filled("curves", self.curves)


@dataclass(frozen=True, kw_only=True)
class Distance:
    """Bits per byte by how far into its document a byte lies.

    Attributes:
        buckets: [start, end) in bytes; each starts where the one before it ends.
        series: bits per byte in each bucket, by way of reading; None where nothing was measured.
        bytes: how many bytes were scored in each bucket.
    """

    buckets: list[tuple[int, int]]
    series: dict[str, list[float | None]]
    bytes: list[int]

    def __post_init__(self) -> None:
        _check_filled("buckets", self.buckets)
        _check_filled("series", self.series)
        ends = [end for _, end in self.buckets]
        if any(start >= end for start, end in self.buckets) or ends[:-1] != [b for b, _ in self.buckets[1:]]:
            raise ValueError("buckets should be [start, end) pairs, each starting where the one before it ends")
        for name, values in [*self.series.items(), ("bytes", self.bytes)]:
            _check_length(name, values, len(self.buckets), "buckets")


@dataclass(frozen=True, kw_only=True)
class Recall:
    """How often a pass key is recalled, by where it was hidden and how long ago.

    Attributes:
        distances: tokens between the key and the question, ascending.
        depths: where in the text the key was hidden, 0 (the beginning) to 1 (the end).
        window: how many tokens back the model's attention sees.
        trained_to: the longest distance, in tokens, that training showed.
        samples: trials behind each number.
        accuracy: share of keys recalled, 0 to 1, by model: one row for each depth, in it one number for each
            distance; None where nothing was measured.
        chance: the accuracy of guessing.
    """

    distances: list[int]
    depths: list[float]
    window: int
    trained_to: int
    samples: int
    accuracy: dict[str, list[list[float | None]]]
    chance: float

    def __post_init__(self) -> None:
        _check_filled("distances", self.distances)
        _check_filled("depths", self.depths)
        if self.distances != sorted(self.distances):
            raise ValueError(f"distances should be ascending, not {self.distances}")
        _check_filled("accuracy", self.accuracy)
        for name, rows in self.accuracy.items():
            _check_length(f"accuracy.{name}", rows, len(self.depths), "depths")
            for row in rows:
                _check_length(f"a row of accuracy.{name}", row, len(self.distances), "distances")

    def beyond_window(self, model: str) -> float | None:
        """The mean share of keys that were further back than the attention sees; None without any."""
        shares = [
            share
            for row in self.accuracy[model]
            for distance, share in zip(self.distances, row, strict=True)
            if distance > self.window and share is not None
        ]
        return fmean(shares) if shares else None


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """How often a model is right on one task at one length.

    Attributes:
        model: its name.
        task: the task and its kind, such as `needles pk` or `babilong qa1` (`titans eval`).
        length: tokens of a sample; 0 for one that is as long as what it holds, without filler.
        accuracy: share of the samples in which everything asked for was right, 0 to 1.
        tokens_accuracy: share of the asked tokens, 0 to 1; None where a model's own words were judged.
        samples: how many were asked.
        depth: needles: where the one that is asked for lies, 0 (the beginning) to 1 (the end); None for anywhere.
        command: what measured it.
        machine: where (`Machine.summary`): those of one file may come from several.
    """

    model: str
    task: str
    length: int
    accuracy: float
    tokens_accuracy: float | None = None
    samples: int
    depth: float | None = None
    command: str | None = None
    machine: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("length", 0), ("samples", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} should be at least {least}, not {getattr(self, name)}")
        for name in ("accuracy", "tokens_accuracy", "depth"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name} should be a share from 0 to 1, not {share}")

    @property
    def cell(self) -> tuple[str, str, int, float]:
        """What may be there once: model, task, length and depth (-1 for anywhere)."""
        return self.model, self.task, self.length, -1.0 if self.depth is None else self.depth


@dataclass(frozen=True, kw_only=True)
class StreamPoint:
    """How reading one endless text goes, measured at one moment.

    Attributes:
        tokens: tokens read so far.
        seconds: seconds since the start.
        resident_mb: memory of the process, in megabytes.
        tokens_per_second: speed since the point before.
        bits_per_byte: of the text since the point before; None where not measured.
    """

    tokens: int
    seconds: float
    resident_mb: float
    tokens_per_second: float
    bits_per_byte: float | None = None


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One long reading, in order."""

    points: list[StreamPoint]

    def __post_init__(self) -> None:
        _check_filled("points", self.points)


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that one report can show.

    Attributes:
        title: the page's heading.
        command: the command that made these numbers.
        created: when, ISO 8601.
        machine: where; scores say it for themselves.
        settings: what was chosen, by name.
        models: the models compared, by name.
        training, distance, recall, scores, stream: the measurements; see their classes.
        notes: what these numbers do not show, a sentence each.
    """

    title: str
    command: str | None = None
    created: str | None = None
    machine: Machine | None = None
    settings: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    models: dict[str, ModelSummary] = field(default_factory=dict)
    training: Training | None = None
    distance: Distance | None = None
    recall: Recall | None = None
    scores: list[TaskScore] = field(default_factory=list)
    stream: Stream | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for cell, count in Counter(score.cell for score in self.scores).items():
            if count > 1:
                raise ValueError(
                    f"scores should hold each model, task, length and depth once; {cell} is there {count} times"
                )

    def label(self, model: str) -> str:
        """The name that readers see for `model`."""
        return self.models[model].label if model in self.models else model.replace("_", " ")

    def is_empty(self) -> bool:
        """Whether there is no measurement to show."""
        sections = (self.training, self.distance, self.recall, self.stream)
        return not self.models and not self.scores and all(section is None for section in sections)

    def measured_on(self) -> dict[str, str]:
        """The machines that scores were measured on, each with its models' labels."""
        models: dict[str, dict[str, None]] = {}
        for score in self.scores:
            if score.machine is not None:
                models.setdefault(score.machine, {})[self.label(score.model)] = None
        return {machine: "; ".join(labels) for machine, labels in models.items()}


def write_results(folder: Path, results: Results) -> Path:
    """Writes `folder/results.json`, atomically; returns its path."""
    path = Path(folder) / RESULTS_NAME
    write_json(path, asdict(results))
    return path


def read_results(folder: Path) -> Results:
    """Reads `folder/results.json`.

    Raises:
        TitansError: it is missing or damaged, or a key is missing or of the wrong type (the message names it).
    """
    path = Path(folder) / RESULTS_NAME
    value = read_json(path)
    try:
        return parse(value, Results)
    except ValueError as error:
        raise TitansError(f"{path}: {error}") from error


def _check_filled(name: str, values: Sized) -> None:
    if not len(values):
        raise ValueError(f"{name} should not be empty; leave the section out instead")


def _check_length(name: str, values: Sequence, expected: int, of: str) -> None:
    if len(values) != expected:
        raise ValueError(f"{name} should have {expected} values, one for each of {of}, not {len(values)}")

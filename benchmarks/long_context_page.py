"""What the runs of long_context.py say together: a page of tables, every seed in them, and a picture of their means."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import fmean

from gain_summary import markdown_table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from titans.files import write_text
from titans.report.figures import pooled_accuracy, short_count
from titans.report.results import ModelSummary, Results, TaskScore, read_results
from titans.report.style import (
    BLUE,
    GREEN,
    INK,
    LIGHT_BLUE,
    LIGHT_ORANGE,
    MUTED,
    ORANGE,
    PURPLE,
    LineStyle,
    save_svg,
    styled,
)

PAGE, PICTURE = "README.md", "by_length.svg"
MEANT = Path(__file__).parents[1] / "docs" / "long-context.md"
ASK_MANY = ("state-tracking", "mqar", "in-context-recall", "noisy-recall", "fuzzy-recall")
"""Tasks of which a sample asks many things."""
ACROSS, PANEL = 3, (2.9, 2.2)  # panels in a row of the picture; inches of one

STYLES = {
    "Titans (MAC)": LineStyle(BLUE),
    "Titans (MAG)": LineStyle(LIGHT_BLUE, marker="s"),
    "Titans (MAL)": LineStyle(PURPLE, marker="D"),
    "Titans (LMM)": LineStyle(GREEN, marker="P"),
    "control": LineStyle(ORANGE, "--", "^"),
    "Llama": LineStyle(LIGHT_ORANGE, "--", "v"),
    "Llama, sliding window": LineStyle(ORANGE, "--", "v"),
    "Mamba": LineStyle(MUTED, "--", "<"),
    "Mamba-2": LineStyle(MUTED, "--", ">"),
    "DeltaNet": LineStyle(PURPLE, "--", "h"),
    "DeltaNet, steps up to 2": LineStyle(BLUE, "--", "h"),
    "Gated DeltaNet": LineStyle(INK, "--", "X"),
    "Gated DeltaNet, steps up to 2": LineStyle(GREEN, "--", "X"),
    "hybrid": LineStyle(LIGHT_ORANGE, "--", "d"),
}
"""Full lines have the memory."""

Runs = dict[str, dict[int, float]]
"""Share right by run and length."""
Shares = dict[str, Runs]
"""The same by task."""


@dataclass(frozen=True)
class Contender:
    """One model at one learning rate, with all its seeds.

    Attributes:
        label: its name in the table.
        models: names of its runs in the results, by seed.
    """

    label: str
    models: dict[int, str]

    @property
    def kind(self) -> str:
        """Its name without the rate."""
        return self.label.split(", rate ")[0]


def contenders(names: Iterable[str]) -> list[Contender]:
    """The runs' names, "LABEL, seed N", by label."""
    found: dict[str, dict[int, str]] = {}
    for name in names:
        parts = re.fullmatch(r"(.+), seed (\d+)", name)
        assert parts is not None, name
        found.setdefault(parts[1], {})[int(parts[2])] = name
    labels = sorted(found, key=lambda label: (not label.startswith("Titans"), label))
    return [Contender(label, dict(sorted(found[label].items()))) for label in labels]


def right(scores: Iterable[TaskScore]) -> Shares:
    """Of the samples, over all depths. Where a sample asks many things the share of the answers, which is what those
    benchmarks give, is before that of the samples; BABILong's tasks have a mean as well, where all were asked."""
    found: dict[str, dict[str, list[TaskScore]]] = {}
    for score in scores:
        found.setdefault(score.task, {}).setdefault(score.model, []).append(score)
    shares: Shares = {}
    for task, runs in sorted(found.items(), key=_by_number):
        whole = {run: pooled_accuracy(own) for run, own in runs.items()}
        if task.startswith(ASK_MANY):
            shares |= {task: {run: _answers(own) for run, own in runs.items()}, f"{task}, whole samples": whole}
        else:
            shares[task] = whole
    questions = [runs for task, runs in shares.items() if re.fullmatch(r"babilong qa\d", task)]
    return shares | ({} if len(questions) < 2 else {"babilong, mean": _means(questions)})


def page(results: Results, folder: Path) -> str:
    """The page as Markdown, to lie in `folder`."""
    found, shares = contenders(results.models), right(results.scores)
    meant = Path(os.path.relpath(MEANT, folder)).as_posix()
    machines = results.measured_on()
    made = "".join(f"{machine}{'' if len(machines) == 1 else f' ({models})'}. " for machine, models in machines.items())
    tables = task_tables(found, shares, results.scores)
    parts = [
        f"# {results.title}",
        f"Written by `benchmarks/long_context.py`. What it means is said in [long context]({meant}), "
        f"what measured each number in [results.json](results.json). {made}Made by:",
        *(f"    {command}" for command in (results.command or "").splitlines()),
        *results.notes,
        "Share right in %: of the samples as a whole, or, where samples ask many things, of the answers. A number "
        "for each seed, in the order of the seeds in the first table; without a rate it is the recipe's. The picture "
        "has their means, and bars from the lowest to the highest; a hollow mark is of fewer seeds than the line.",
        f"![Share right by length]({PICTURE})",
        _models_table(found, results.models),
        *(f"## {task}\n\n{table}" for task, table in tables.items()),
    ]
    return "\n\n".join(parts) + "\n"


def task_tables(found: Sequence[Contender], shares: Shares, scores: Iterable[TaskScore]) -> dict[str, str]:
    """Of each task a table: models down, lengths across, a number for each seed in a cell."""
    samples = _samples(scores)
    return {task: _task_table(task, found, models, samples) for task, models in shares.items()}


def draw(found: Sequence[Contender], shares: Shares, path: Path) -> None:
    """A panel for each task; a line for each model, at the rate where it is best on average."""
    found = best_rates(found, shares)
    styles = {one.label: STYLES[one.kind] for one in found}
    across = min(ACROSS, max(2, len(shares)))
    down = ceil(len(shares) / across)
    height = PANEL[1] * down + 0.22 * ceil(len(found) / across) + 0.1
    with styled():
        figure = Figure(figsize=(PANEL[0] * across, height), layout="constrained")
        panels = figure.subplots(down, min(across, len(shares)), squeeze=False, sharey=True)
        for axes, (task, models) in zip(panels.flat, shares.items(), strict=False):
            _panel(axes, task, models, found, styles)
        for axes in panels.flat[len(shares) :]:
            axes.set_axis_off()
        figure.legend(
            [Line2D([], [], color=s.color, linestyle=s.dash, marker=s.marker) for s in styles.values()],
            [f"{one.label} ({len(one.models)} seed{'s' * (len(one.models) > 1)})" for one in found],
            loc="outside upper left",
            ncols=across,
            frameon=False,
            fontsize=9,
        )
        save_svg(figure, path)


def best_rates(found: Sequence[Contender], shares: Shares) -> list[Contender]:
    """Of each model the rate with the highest mean, over what every rate of it was asked with the same seeds."""
    best: dict[str, list[Contender]] = {}
    for one in found:
        best.setdefault(one.kind, []).append(one)
    chosen = []
    for rates in best.values():
        by_cell = [_by_cell(one, shares) for one in rates]
        common = set.intersection(*map(set, by_cell))
        means = [fmean(values[cell] for cell in common) if common else 0.0 for values in by_cell]
        chosen.append(rates[means.index(max(means))])
    return chosen


def write_page(folder: Path) -> Path:
    """Reads the folder's results, and writes page and picture beside them. Returns the page's path."""
    results = read_results(folder)
    draw(contenders(results.models), right(results.scores), folder / PICTURE)
    write_text(folder / PAGE, page(results, folder))
    return folder / PAGE


def _means(tasks: Sequence[Runs]) -> Runs:
    runs = set.intersection(*(set(runs) for runs in tasks))
    return {
        run: {length: fmean(runs[run][length] for runs in tasks) for length in sorted(_common(tasks, run))}
        for run in sorted(runs)
    }


def _common(tasks: Sequence[Runs], run: str) -> set[int]:
    return set.intersection(*(set(runs[run]) for runs in tasks))


def _by_number(found: tuple[str, object]) -> list[str | int]:
    """A key for sorting: 8 pairs come before 16."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", found[0])]


def _answers(scores: Sequence[TaskScore]) -> dict[int, float]:
    return {s.length: s.tokens_accuracy for s in scores if s.tokens_accuracy is not None}


def _by_cell(one: Contender, shares: Shares) -> dict[tuple[str, int, int], float]:
    """Share right by task, seed and length."""
    return {
        (task, seed, length): share
        for task, models in shares.items()
        for seed, name in one.models.items()
        for length, share in models.get(name, {}).items()
    }


def _models_table(found: Sequence[Contender], models: dict[str, ModelSummary]) -> str:
    rows = []
    for one in found:
        own = [models[name] for name in one.models.values()]
        tokens = ", ".join(f"{summary.train_tokens / 1e6:.1f}" for summary in own)
        seconds = ", ".join(f"{summary.train_seconds:,.0f}" for summary in own)
        rows.append([one.label, ", ".join(map(str, one.models)), f"{own[0].parameters:,}", f"{tokens} M", seconds])
    return markdown_table(["model", "seeds", "parameters", "training tokens", "seconds of training"], rows)


def _task_table(
    task: str,
    found: Sequence[Contender],
    models: Runs,
    samples: dict[tuple[str, int], str],
) -> str:
    lengths = sorted({length for own in models.values() for length in own})
    rows = []
    for one in found:
        if any(name in models for name in one.models.values()):
            cells = [[models.get(name, {}).get(length) for name in one.models.values()] for length in lengths]
            rows.append([one.label, *(", ".join(map(percent, cell)) for cell in cells)])
    asked = [samples.get((task, length)) for length in lengths]
    rows += [] if None in asked else [["*samples*", *(f"*{count}*" for count in asked)]]
    return markdown_table(["model", *(f"{length:,}" for length in lengths)], rows)


def _samples(scores: Iterable[TaskScore]) -> dict[tuple[str, int], str]:
    """How many each run was asked of a task at a length, over all depths."""
    counts: dict[tuple[str, int], dict[str, int]] = {}
    for score in scores:
        runs = counts.setdefault((score.task, score.length), {})
        runs[score.model] = runs.get(score.model, 0) + score.samples
    ranges = {cell: (min(runs.values()), max(runs.values())) for cell, runs in counts.items()}
    return {cell: str(few) if few == many else f"{few} to {many}" for cell, (few, many) in ranges.items()}


def percent(share: float | None) -> str:
    """As 100 only what is 100."""
    if share is None:
        return "-"
    return f"{min(100 * share, 99.9):.1f}" if 0.99 < share < 1 else f"{100 * share:.0f}"


def _panel(
    axes: Axes,
    task: str,
    models: Runs,
    found: Sequence[Contender],
    styles: dict[str, LineStyle],
) -> None:
    lengths = sorted({length for own in models.values() for length in own})
    for one in found:
        by_length = {
            length: [100 * models[name][length] for name in one.models.values() if length in models.get(name, {})]
            for length in lengths
        }
        there = {lengths.index(length): values for length, values in by_length.items() if values}
        if there:
            means = [fmean(values) for values in there.values()]
            bars = [
                [mean - min(values) for mean, values in zip(means, there.values(), strict=True)],
                [max(values) - mean for mean, values in zip(means, there.values(), strict=True)],
            ]
            color, dash, marker = styles[one.label]
            axes.errorbar([*there], means, bars, color=color, linestyle=dash, marker=marker, elinewidth=0.8)
            for x, values in there.items():
                if len(values) < len(one.models):
                    axes.plot(x, fmean(values), color=color, marker=marker, markerfacecolor="white", zorder=3)
    axes.set_title(task, loc="left", fontsize=9.5, color=INK)
    axes.set_xticks(range(len(lengths)), [short_count(length) for length in lengths])
    axes.set_ylim(-4, 104)

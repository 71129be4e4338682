"""What the runs of memory_gain.py say together: means, paired differences, a table and a picture."""

from collections.abc import Iterable, Sequence
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

from titans.report.style import add_legend, line_styles, new_panel, save_svg, styled

MODELS = ("titans", "control", "control, equal time", "full attention")
PAIRS = (
    ("titans", "control"),
    ("titans", "control, equal time"),
    ("control, equal time", "control"),
    ("full attention", "control"),
)
SHARE = "gain over control as a share of full attention's gain"


def summarise(runs: Sequence[dict]) -> dict:
    """Means, differences by seed and their standard errors, for each stretch of distance and over all of them.

    A difference below zero is a gain. The share is left out (None) where full attention gains nothing.
    """
    pairs = {f"{model} - {base}": _differences(runs, model, base) for model, base in PAIRS}
    titans, ceiling = pairs["titans - control"], pairs["full attention - control"]
    return {
        "mean bits per byte": _means(runs, "bits_per_byte"),
        "mean recall": _means([run for run in runs if run["recall"]], "recall"),
        "differences": pairs,
        SHARE: {
            bucket: titans[bucket]["mean"] / ceiling[bucket]["mean"] if ceiling[bucket]["mean"] < 0 else None
            for bucket in titans
            if bucket in ceiling
        },
    }


def to_markdown(results: dict) -> str:
    """The runs as Markdown tables: the models, bits per byte by distance and, where measured, recall."""
    runs, summary = results["runs"], results["summary"]
    tables = [_models_table(runs), _distance_table(summary)]
    if summary["mean recall"]:
        distances = [*next(iter(summary["mean recall"].values()))]
        rows = [[name, *(f"{x:.0%}" for x in row.values())] for name, row in summary["mean recall"].items()]
        tables.append(
            markdown_table(["keys recalled", *(f"{int(distance):,} bytes back" for distance in distances)], rows)
        )
    return "\n\n".join(tables)


def draw(results: dict, path: Path) -> None:
    """Difference to the control by distance: each model's mean over the seeds, and the seeds as thin lines."""
    differences = results["summary"]["differences"]
    shown = {name: differences[f"{name} - control"] for name in MODELS if name != "control"}
    styles = line_styles(shown)
    buckets = [bucket for bucket in next(iter(shown.values())) if bucket != "all"]
    with styled():
        below = "bits per byte, mean and single seeds; below zero is better"
        figure, axes = new_panel("Difference to the control", below, "bytes since the start of the document")
        for name, values in shown.items():
            color, dash, marker = styles[name]
            for seed in values["all"]["by_seed"]:
                line = [values[bucket]["by_seed"][seed] for bucket in buckets]
                axes.plot(line, color=color, linestyle=dash, linewidth=0.7, alpha=0.45)
            axes.plot([values[bucket]["mean"] for bucket in buckets], color=color, linestyle=dash, marker=marker)
        axes.axhline(0, color=line_styles(["control"])["control"].color, linewidth=1.2, zorder=1)
        axes.set_xticks(range(len(buckets)), buckets, fontsize=8)
        add_legend(figure, styles, {})
        save_svg(figure, path)


def _means(runs: Sequence[dict], key: str) -> dict[str, dict[str, float]]:
    """By model and stretch."""
    means = {}
    for model in MODELS:
        measured = [run[key] for run in runs if run["model"] == model]
        if measured:
            means[model] = {name: fmean(values[name] for values in measured) for name in measured[0]}
    return means


def _differences(runs: Sequence[dict], model: str, base: str) -> dict[str, dict]:
    """Of the seeds for which both are there, by stretch."""
    measured = {(run["model"], run["seed"]): run["bits_per_byte"] for run in runs}
    seeds = sorted(seed for name, seed in measured if name == model and (base, seed) in measured)
    if not seeds:
        return {}
    result = {}
    for bucket in measured[model, seeds[0]]:
        gaps = [measured[model, seed][bucket] - measured[base, seed][bucket] for seed in seeds]
        result[bucket] = {
            "mean": fmean(gaps),
            "standard_error": stdev(gaps) / sqrt(len(gaps)) if len(gaps) > 1 else None,
            "by_seed": {str(seed): gap for seed, gap in zip(seeds, gaps, strict=True)},
        }
    return result


def _models_table(runs: Sequence[dict]) -> str:
    rows = []
    for model in MODELS:
        own = [run for run in runs if run["model"] == model]
        seconds = fmean(run["train_seconds"] for run in own)
        rows.append([model, f"{own[0]['parameters']:,}", f"{own[0]['tokens']:,}", f"{seconds:,.0f}", str(len(own))])
    return markdown_table(["model", "parameters", "training tokens", "seconds of training", "seeds"], rows)


def _distance_table(summary: dict) -> str:
    means, shares = summary["mean bits per byte"], summary[SHARE]
    rows = [
        [
            bucket,
            *(f"{means[model][bucket]:.3f}" for model in MODELS),
            *(_difference(summary["differences"][f"{a} - {b}"][bucket]) for a, b in PAIRS[:2]),
            "-" if shares[bucket] is None else f"{shares[bucket]:.0%}",
        ]
        for bucket in means["titans"]
    ]
    heads = [
        "bytes into the document",
        *MODELS,
        *(f"{a} - {b}" for a, b in PAIRS[:2]),
        "share of full attention's gain",
    ]
    return markdown_table(heads, rows)


def _difference(value: dict) -> str:
    error = "" if value["standard_error"] is None else f" ± {value['standard_error']:.3f}"
    return f"{value['mean']:+.3f}{error}"


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells under their heads."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

"""The report: one self-contained HTML page that shows what a run measured."""

from dataclasses import replace
from pathlib import Path

from titans.errors import TitansError
from titans.files import write_text
from titans.report import figures, heat_maps, page
from titans.report.interval import interval, spelled
from titans.report.metrics import METRICS_NAME, read_metrics, read_training
from titans.report.results import (
    RESULTS_NAME,
    Distance,
    Machine,
    ModelSummary,
    Recall,
    Results,
    Stream,
    TaskScore,
    Training,
    TrainingPoint,
    read_results,
)
from titans.report.summary import key_numbers

REPORT_NAME = "report.html"
MAX_ROWS = 60
NOT_MEASURED = "\N{EN DASH}"


def write_report(folder: Path) -> Path:
    """Writes `folder/report.html` from `folder/results.json` and, if that has no curves, `folder/metrics.jsonl`.

    Returns:
        The page's path. It loads nothing from elsewhere, and equal results give an equal page.
    Raises:
        TitansError: no such folder, nothing in it to report, or a damaged file; one line that names it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise TitansError(f"{folder} is not a folder; give the folder of a finished run")
    results = _read(folder)
    if results.is_empty():
        raise TitansError(f"nothing to report in {folder / RESULTS_NAME}: it holds no measurement")
    path = folder / REPORT_NAME
    write_text(path, render(results))
    return path


def _read(folder: Path) -> Results:
    has_curves = (folder / METRICS_NAME).exists()
    if not (folder / RESULTS_NAME).exists():
        if not has_curves:
            raise TitansError(f"nothing to report in {folder}: it has neither {RESULTS_NAME} nor {METRICS_NAME}")
        return read_metrics(folder)
    results = read_results(folder)
    return replace(results, training=read_training(folder)) if has_curves and results.training is None else results


def render(results: Results) -> str:
    """The page, as text."""
    parts = [page.heading(results.title, level=1), page.paragraph(_lead(results), "lead")]
    parts.append(page.tiles(key_numbers(results)))
    if results.models:
        parts.append(_models(results.models))
    if results.training is not None:
        parts.append(_training(results, results.training))
    if results.distance is not None:
        parts.append(_distance(results.distance))
    if results.recall is not None:
        parts.append(_recall(results, results.recall))
    if results.scores:
        parts.append(_scores(results, results.scores))
    if results.stream is not None:
        parts.append(_stream(results.stream))
    if results.notes:
        parts.append(page.heading("What this does not show"))
        parts += [page.paragraph(note) for note in results.notes]
    parts.append(_origin(results))
    return page.page(results.title, parts)


def _lead(results: Results) -> str:
    if results.distance is results.recall is results.stream is None:
        if results.scores:
            return (
                "You are looking at what models remember of what they have read: each was asked, and the share of "
                "right answers stands by how much there was to read."
            )
        if not results.models:
            return "You are looking at how training went: the loss, step by step. No other measurement is here."
    text = (
        "You are looking at a language model with a neural long-term memory: a small network inside the model "
        "that goes on learning from each token while it reads, so that what it read long ago can still help."
    )
    if "control" in results.models:
        text += (
            " Beside it stands a control, the same kind of model without that memory. Wherever the two differ, "
            "the figures below say in which direction and by how much."
        )
    return text


def _models(models: dict[str, ModelSummary]) -> str:
    header = ("Model", "Parameters", "Tokens trained on", "Training time", "Bits per byte, held-out")
    rows = [
        (
            model.label,
            f"{model.parameters:,}",
            f"{model.train_tokens:,}",
            _duration(model.train_seconds),
            _number(model.final_bits_per_byte),
        )
        for model in models.values()
    ]
    return page.table(header, rows)


def _training(results: Results, training: Training) -> str:
    labels = {name: results.label(name) for name in training.curves}
    held_out = any(point.validation for points in training.curves.values() for point in points)
    caption = f"{training.unit.capitalize()} as training goes on, against tokens and against time; lower is better. "
    caption += "Points are held-out text, thin lines the training batches. " if held_out else ""
    caption += "The vertical scale fits the last nine tenths of training; the steep fall before goes beyond it."
    header = ("Tokens", "Seconds", training.unit.capitalize(), "Measured on")
    tables = []
    for name, points in training.curves.items():
        rows = [
            (f"{p.tokens:,}", f"{p.seconds:,.1f}", _number(p.bits), "held-out text" if p.validation else "batch")
            for p in _table_points(points)
        ]
        tables.append((f"{labels[name]} ({len(rows)} of {len(points)} points)", page.table(header, rows)))
    drawn = page.figure(caption, figures.training_figure(training, labels))
    return page.heading("Learning") + drawn + page.numbers(tables)


def _table_points(points: list[TrainingPoint]) -> list[TrainingPoint]:
    """All held-out points, or else the batches, thinned to MAX_ROWS; the last is always among them."""
    chosen = [point for point in points if point.validation] or points
    every = -(-len(chosen) // MAX_ROWS) or 1
    return chosen[::-1][::every][::-1]


def _distance(distance: Distance) -> str:
    caption = (
        "Bits per byte of held-out documents by how far into the document a byte lies; lower is better. "
        "If the memory helps, the gap to the control should widen further in, where attention no longer sees the "
        "beginning."
    )
    header = ("Bytes into the document", "Bytes scored", *distance.series)
    rows = [
        (f"{start:,} to {end:,}", f"{scored:,}", *(_number(values[i]) for values in distance.series.values()))
        for i, ((start, end), scored) in enumerate(zip(distance.buckets, distance.bytes, strict=True))
    ]
    drawn = page.figure(caption, figures.distance_figure(distance))
    return page.heading("Far into a document") + drawn + page.numbers([("Bits per byte", page.table(header, rows))])


def _recall(results: Results, recall: Recall) -> str:
    labels = {name: results.label(name) for name in recall.accuracy}
    caption = (
        "How often a pass key hidden in a text is recalled, by where it was hidden (rows, from the beginning to "
        "the end) and how many tokens ago (columns); darker is better. Right of the line marked window the key is "
        "out of the attention window, right of the line marked trained to it is further away than ever in training. "
        f"{recall.samples:,} trials in each cell; guessing gives {recall.chance:.1%}."
    )
    header = ("Hidden at", *(f"{distance:,} tokens ago" for distance in recall.distances))
    tables = []
    for name, rows in recall.accuracy.items():
        cells = [
            (f"{depth:.0%}", *(NOT_MEASURED if cell is None else f"{cell:.1%}" for cell in row))
            for depth, row in zip(recall.depths, rows, strict=True)
        ]
        tables.append((labels[name], page.table(header, cells)))
    drawn = page.figure(caption, heat_maps.recall_figure(recall, labels))
    return page.heading("Recalling a pass key") + drawn + page.numbers(tables)


def _scores(results: Results, scores: list[TaskScore]) -> str:
    labels = {score.model: results.label(score.model) for score in scores}
    parts = [page.heading("Tasks")]
    header = ("Model", "Tokens of a sample", "Depth", "Right", "95 % sure", "Asked tokens right", "Samples")
    for number, task in enumerate(dict.fromkeys(score.task for score in scores)):
        these = [score for score in scores if score.task == task]
        few, many = min(s.samples for s in these), max(s.samples for s in these)
        caption = (
            f"{task}: in how many samples everything that was asked for was right, by how long they are; higher is "
            f"better. {few:,}{f' to {many:,}' if many > few else ''} samples in each cell; "
            "with 95 % confidence the true share lies in the shade of its line."
        )
        drawn = [figures.lengths_figure(these, labels, f"task-{number}")]
        if any(score.depth is not None for score in these):
            caption += " Then, for each model, by where in the text the needle lies as well (rows, from the beginning)."
            drawn += heat_maps.depths_figure(these, labels, f"task-{number}-depths")
        rows = [
            (
                labels[s.model],
                f"{s.length:,}",
                "any" if s.depth is None else f"{s.depth:.0%}",
                f"{s.accuracy:.1%}",
                spelled(interval(s.accuracy, s.samples)),
                "" if s.tokens_accuracy is None else f"{s.tokens_accuracy:.1%}",
                f"{s.samples:,}",
            )
            for s in sorted(these, key=lambda s: (list(labels).index(s.model), *s.cell[2:]))
        ]
        parts.append(page.figure(caption, drawn))
        parts.append(page.numbers([(task, page.table(header, rows))]))
    return "".join(parts)


def _stream(stream: Stream) -> str:
    caption = (
        "One text without end, read with one state that is never reset. Higher speed is better, and both speed and "
        "memory should stay level however much has been read."
    )
    header = ("Tokens read", "Seconds", "Tokens per second", "Resident MB", "Bits per byte")
    rows = [
        (
            f"{p.tokens:,}",
            f"{p.seconds:,.1f}",
            f"{p.tokens_per_second:,.0f}",
            f"{p.resident_mb:,.1f}",
            _number(p.bits_per_byte),
        )
        for p in stream.points
    ]
    drawn = page.figure(caption, figures.stream_figure(stream))
    return page.heading("Reading without end") + drawn + page.numbers([("Stream", page.table(header, rows))])


def _origin(results: Results) -> str:
    facts = [("Made", results.created)] if results.created else []
    facts += _machine_facts(results.machine) if results.machine else []
    facts += [(f"Scores of {models}", machine) for machine, models in results.measured_on().items()]
    facts += [(name.replace("_", " "), str(value)) for name, value in results.settings.items()]
    commands = dict.fromkeys([results.command, *(score.command for score in results.scores)])
    command = "".join(page.code(command) for command in commands if command)
    return page.heading("How it was made") + command + page.facts(facts) if command or facts else ""


def _machine_facts(machine: Machine) -> list[tuple[str, str]]:
    return [
        ("Processor", f"{machine.processor}, {machine.cores} cores, {machine.memory_gb:.0f} GB of memory"),
        ("Versions", f"Python {machine.python}, PyTorch {machine.torch}"),
    ]


def _number(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.3f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

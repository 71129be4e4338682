"""The figures of the report: each function takes one section of the results and returns its panels as SVG.

A figure is one to three panels of the same size, which a page can set side by side or one below the other.
"""

from collections.abc import Iterable, Sequence
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator, StrMethodFormatter

from titans.report.interval import interval
from titans.report.results import Distance, Stream, TaskScore, Training, TrainingPoint
from titans.report.style import (
    BLUE,
    ORANGE,
    LineStyle,
    add_legend,
    line_styles,
    new_panel,
    styled,
    to_svg,
)

MAX_BATCH_POINTS = 200
MAX_MARKERS = 30
MAX_LENGTHS = 8  # whose names have room below a panel
ROUND_STEPS = [1, 2, 2.5, 5, 10]
WARM_UP = 0.1  # share of training left out when the vertical range is chosen: it would flatten all the rest


def training_figure(training: Training, labels: dict[str, str]) -> list[str]:
    """Loss against tokens and against seconds: batches as a thin line, held-out text as marked points."""
    seconds = [point.seconds for points in training.curves.values() for point in points]
    unit, scale = _time_unit(max(seconds, default=0.0))
    with styled():
        return [
            _training_panel(training, labels, "tokens", "tokens trained on", 1.0),
            _training_panel(training, labels, "seconds", f"{unit} of training", scale),
        ]


def _training_panel(training: Training, labels: dict[str, str], horizontal: str, x_label: str, scale: float) -> str:
    what = f"{training.unit.capitalize()} by {horizontal if horizontal == 'tokens' else 'time'}"
    figure, axes = new_panel(what, "lower is better", x_label)
    styles, ends = line_styles(training.curves), []
    for name, points in training.curves.items():
        held_out = _coordinates([point for point in points if point.validation], horizontal, scale)
        batches = _coordinates(batch_means(points), horizontal, scale)
        if held_out[0]:
            axes.plot(*batches, color=styles[name].color, linewidth=0.9, alpha=0.45, zorder=1.5)
        xs, ys = held_out if held_out[0] else batches
        _draw_line(axes, xs, ys, styles[name])
        ends += [(y, styles[name].color) for y in ys[-1:]]
    axes.set_ylim(*_settled_range(training))
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=ROUND_STEPS))
    _label_ends(axes, ends)
    add_legend(figure, styles, labels)
    return to_svg(figure, f"training-{horizontal}", f"{what}; lower is better")


def _coordinates(points: Iterable[TrainingPoint], horizontal: str, scale: float) -> tuple[list[float], list[float]]:
    measured = [(getattr(point, horizontal) / scale, point.bits) for point in points if point.bits is not None]
    return [x for x, _ in measured], [y for _, y in measured]


def batch_means(points: Sequence[TrainingPoint]) -> list[TrainingPoint]:
    """Training batches, averaged in groups so that at most MAX_BATCH_POINTS remain."""
    batches = [point for point in points if not point.validation and point.bits is not None]
    size = -(-len(batches) // MAX_BATCH_POINTS) or 1
    groups = [batches[start : start + size] for start in range(0, len(batches), size)]
    return [
        TrainingPoint(
            tokens=group[-1].tokens,
            seconds=group[-1].seconds,
            bits=fmean(point.bits for point in group if point.bits is not None),
        )
        for group in groups
    ]


def _settled_range(training: Training) -> tuple[float, float]:
    shown = []
    for points in training.curves.values():
        end = max((point.tokens for point in points), default=0)
        drawn = batch_means(points) + [point for point in points if point.validation]
        shown += [p.bits for p in drawn if p.bits is not None and p.tokens >= WARM_UP * end]
    low, high = min(shown, default=0.0), max(shown, default=1.0)
    margin = 0.06 * (high - low) or 0.1
    return low - margin, high + margin


def distance_figure(distance: Distance) -> list[str]:
    """Bits per byte by distance into the document and, where there is a control, the difference to it."""
    control = distance.series.get("control")
    with styled():
        title = "Bits per byte by distance"
        panels = [_distance_panel(distance, distance.series, "distance", title, "lower is better")]
        if control is not None and len(distance.series) > 1:
            others = {name: values for name, values in distance.series.items() if name != "control"}
            gaps = {name: _differences(values, control) for name, values in others.items()}
            title = "Difference to the control"
            below = "bits per byte; below zero is better than the control"
            panels.append(_distance_panel(distance, gaps, "distance-difference", title, below))
        return panels


def _distance_panel(
    distance: Distance, series: dict[str, list[float | None]], name: str, title: str, subtitle: str
) -> str:
    figure, axes = new_panel(title, subtitle, "bytes since the start of the document")
    styles = line_styles(series)
    for line, values in series.items():
        measured = [(i, value) for i, value in enumerate(values) if value is not None]
        _draw_line(axes, [i for i, _ in measured], [value for _, value in measured], styles[line])
    if name == "distance-difference":
        axes.axhline(0, color=ORANGE, linewidth=1.2, zorder=1)
    edges = [start for start, _ in distance.buckets] + [distance.buckets[-1][1]]
    axes.set_xlim(-0.5, len(distance.buckets) - 0.5)
    axes.set_xticks([i - 0.5 for i in range(len(edges))], [short_count(edge) for edge in edges])
    axes.margins(y=0.12)
    add_legend(figure, styles, {})
    return to_svg(figure, name, f"{title}: {subtitle}")


def _differences(values: Sequence[float | None], base: Sequence[float | None]) -> list[float | None]:
    pairs = zip(values, base, strict=True)
    return [None if value is None or other is None else value - other for value, other in pairs]


def lengths_figure(scores: Sequence[TaskScore], labels: dict[str, str], name: str) -> str:
    """Share right by length of one task, a line for each model in the shade of its intervals; depths taken together.

    Args:
        name: no two figures of a page may share it.
    """
    lengths = sorted({score.length for score in scores})
    with styled():
        styles = line_styles(dict.fromkeys(score.model for score in scores))
        what = "% of the samples; higher is better"
        figure, axes = new_panel("Right by length", what, "tokens of a sample", lines=len(styles))
        for model, style in styles.items():
            own = [score for score in scores if score.model == model]
            pooled = pooled_accuracy(own)
            places = [lengths.index(n) for n in pooled]
            sure = [interval(pooled[n], sum(score.samples for score in own if score.length == n)) for n in pooled]
            low, high = ([100 * end for end in ends] for ends in zip(*sure, strict=True))
            axes.fill_between(places, low, high, color=style.color, alpha=0.12, linewidth=0)
            _draw_line(axes, places, [100 * share for share in pooled.values()], style)
        shown = range(0, len(lengths), -(-len(lengths) // MAX_LENGTHS))
        axes.set_xticks(shown, [short_count(lengths[i]) for i in shown])
        axes.set_xlim(-0.5, len(lengths) - 0.5)
        axes.set_ylim(-4, 104)
        add_legend(figure, styles, labels)
        return to_svg(figure, name, "Share of the samples that are right, by length; higher is better")


def pooled_accuracy(scores: Iterable[TaskScore]) -> dict[int, float]:
    """Share right at each length, ascending, over all samples of that length."""
    found: dict[int, tuple[float, int]] = {}
    for score in scores:
        right, asked = found.get(score.length, (0.0, 0))
        found[score.length] = right + score.accuracy * score.samples, asked + score.samples
    return {length: right / asked for length, (right, asked) in sorted(found.items())}


def stream_figure(stream: Stream) -> list[str]:
    """Speed, memory and, where measured, bits per byte while one endless text is read."""
    with styled():
        speed = [point.tokens_per_second for point in stream.points]
        memory = [point.resident_mb for point in stream.points]
        bits = [point.bits_per_byte for point in stream.points]
        panels = [
            _stream_panel(stream, speed, "stream-speed", "Speed", "tokens per second; higher is better"),
            _stream_panel(stream, memory, "stream-memory", "Memory", "resident megabytes; flat is good"),
        ]
        if any(value is not None for value in bits):
            panels.append(_stream_panel(stream, bits, "stream-bits", "Bits per byte", "lower is better"))
        return panels


def _stream_panel(stream: Stream, values: Sequence[float | None], name: str, title: str, subtitle: str) -> str:
    figure, axes = new_panel(title, subtitle, "tokens read")
    measured = [(p.tokens, value) for p, value in zip(stream.points, values, strict=True) if value is not None]
    xs, ys = [tokens for tokens, _ in measured], [value for _, value in measured]
    _draw_line(axes, xs, ys, LineStyle(BLUE))
    axes.set_xlim(0, 1.02 * max(xs) or 1)
    axes.set_ylim(0, 1.2 * max(ys) or 1)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND_STEPS))
    return to_svg(figure, name, f"{title} against tokens read: {subtitle}")


def short_count(number: int) -> str:
    """4096 as "4k", 1048576 as "1M" (powers of 1024, as lengths usually are), anything else in full."""
    for size, suffix in ((1024**2, "M"), (1024, "k")):
        if number and number % size == 0:
            return f"{number // size}{suffix}"
    return f"{number:,}"


def _time_unit(seconds: float) -> tuple[str, float]:
    if seconds < 300:
        return "seconds", 1.0
    return ("minutes", 60.0) if seconds < 3 * 3600 else ("hours", 3600.0)


def _draw_line(axes: Axes, xs: Sequence[float], ys: Sequence[float], style: LineStyle) -> None:
    marker = style.marker if len(xs) <= MAX_MARKERS else ""
    axes.plot(xs, ys, color=style.color, linestyle=style.dash, marker=marker, zorder=3)


def _label_ends(axes: Axes, ends: Iterable[tuple[float, str]]) -> None:
    """Writes each line's last value at the right edge, moved up where two would overlap."""
    low, high = axes.get_ylim()
    gap, taken = 0.075 * (high - low), low - (high - low)
    for value, color in sorted(ends):
        taken = max(value, taken + gap)
        place = {"xycoords": ("axes fraction", "data"), "xytext": (5, 0), "textcoords": "offset points"}
        axes.annotate(f"{value:.2f}", (1, taken), va="center", color=color, fontsize=9, **place)

"""A picture of the outcomes: for each contest bars of tokens per second, with the quartiles as whiskers."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from titans.bench.contest import Outcome
from titans.bench.table import heading
from titans.report.style import BLUE, INK, LIGHT_BLUE, MUTED, ORANGE, save_svg, styled

WIDTH, BAR, HEAD, FOOT = 7.0, 0.24, 0.42, 0.42  # inches
PLOT = (0.36, 0.56)  # left edge and width of the bars, as shares of the picture


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Writes an SVG file: one panel below the other, ours blue, the base dark blue, other packages orange."""
    shown = [outcome for outcome in outcomes if _measured(outcome)]
    heights = [HEAD + BAR * len(_measured(outcome)) + FOOT for outcome in shown]
    total = sum(heights) or HEAD
    with styled(), rc_context({"axes.grid.axis": "x"}):
        figure = Figure(figsize=(WIDTH, total))
        top = total
        for outcome, height in zip(shown, heights, strict=True):
            inside = BAR * len(_measured(outcome))
            axes = figure.add_axes((PLOT[0], (top - HEAD - inside) / total, PLOT[1], inside / total))
            figure.text(0.02, (top - 0.1) / total, heading(outcome), fontsize=10, fontweight="bold", va="top")
            _panel(axes, outcome)
            top -= height
        save_svg(figure, path)


def _panel(axes: Axes, outcome: Outcome) -> None:
    found = _measured(outcome)
    for place, (name, ours, low, median, high) in enumerate(found):
        color = ORANGE if not ours else BLUE if name == outcome.base else LIGHT_BLUE
        axes.barh(place, median, height=0.7, color=color)
        axes.errorbar(median, place, xerr=[[median - low], [high - median]], color=INK, linewidth=1, capsize=2)
        axes.annotate(f"{median:,.0f}", (high, place), (5, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(found)), [name for name, *_ in found], fontsize=8.5)
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("tokens per second", fontsize=8, color=MUTED, labelpad=1)


def _measured(outcome: Outcome) -> list[tuple[str, bool, float, float, float]]:
    """Name, whether it is ours, and quartiles of tokens per second."""
    return [
        (result.name, result.ours, speed.low, speed.median, speed.high)
        for result in outcome.results
        if (speed := result.tokens_per_second) is not None
    ]

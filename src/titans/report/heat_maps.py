"""Heat maps of the report: how much is found, by how far apart things are and where they were hidden.

As in `titans.report.figures` each function takes one section of the results and returns its panels as SVG.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes

from titans.report.figures import short_count
from titans.report.results import Recall, TaskScore
from titans.report.style import HEAT, INK, MUTED, new_panel, styled, to_svg

DARK = 0.57  # from here on white has more contrast than ink with the colour of a cell
FEW = 8  # rows or columns whose numbers have room in the usual size


def recall_figure(recall: Recall, labels: dict[str, str]) -> list[str]:
    """One heat map for each model: share of pass keys recalled, by depth and distance."""
    with styled():
        return [
            _recall_panel(recall, f"recall-{i}", labels.get(name, name), rows)
            for i, (name, rows) in enumerate(recall.accuracy.items())
        ]


def _recall_panel(recall: Recall, name: str, label: str, rows: list[list[float | None]]) -> str:
    figure, axes = new_panel(label, "pass keys recalled, %", "tokens between the key and the question")
    heat_map(axes, rows, recall.distances, recall.depths)
    for height, words, tokens in ((1.03, "window", recall.window), (1.11, "trained to", recall.trained_to)):
        _mark_column(axes, recall.distances, tokens, f"{words} {short_count(tokens)}", height)
    return to_svg(figure, name, f"Share of pass keys recalled by depth and distance: {label}")


def _mark_column(axes: Axes, distances: list[int], tokens: int, text: str, height: float) -> None:
    """A line between the distances within `tokens` and those beyond, with its name above the plot."""
    edge = sum(distance <= tokens for distance in distances) - 0.5
    for color, width in (("white", 3.0), (INK, 1.2)):
        axes.plot(
            [edge, edge],
            [0, height],
            transform=axes.get_xaxis_transform(),
            color=color,
            linewidth=width,
            clip_on=False,
        )
    share = (edge + 0.5) / len(distances)
    on_left = share >= 0.3
    axes.annotate(
        text,
        (share, height),
        xycoords="axes fraction",
        xytext=(-3 if on_left else 3, 0),
        textcoords="offset points",
        ha="right" if on_left else "left",
        va="center",
        fontsize=8.5,
        color=MUTED,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    )


def depths_figure(scores: Sequence[TaskScore], labels: dict[str, str], name: str) -> list[str]:
    """One heat map for each model of one task's scores with a depth: share right, by length of the text and depth.

    Every panel has all lengths and depths, so that models can be compared cell by cell.

    Args:
        name: no two figures of a page may share it.
    """
    scores = [score for score in scores if score.depth is not None]
    lengths = sorted({score.length for score in scores})
    depths = sorted({score.depth for score in scores if score.depth is not None})
    found = {(score.model, score.depth, score.length): score.accuracy for score in scores}
    panels = []
    with styled():
        for i, model in enumerate(dict.fromkeys(score.model for score in scores)):
            label = labels.get(model, model)
            figure, axes = new_panel(label, "found, %, by depth in the text", "tokens of the text")
            rows = [[found.get((model, depth, length)) for length in lengths] for depth in depths]
            heat_map(axes, rows, lengths, depths)
            panels.append(to_svg(figure, f"{name}-{i}", f"Share found by depth and length: {label}"))
    return panels


def heat_map(
    axes: Axes, rows: Sequence[Sequence[float | None]], lengths: Sequence[int], depths: Sequence[float]
) -> None:
    """A cell for each depth (down) and length (to the right), with its share in percent; a dash where there is none."""
    shown = [[float("nan") if cell is None else cell for cell in row] for row in rows]
    edges = [[i - 0.5 for i in range(len(ticks) + 1)] for ticks in (lengths, depths)]
    axes.pcolormesh(*edges, shown, cmap=HEAT, vmin=0, vmax=1, edgecolors="white", linewidth=0.8)
    axes.invert_yaxis()
    size = 9 if max(len(lengths), len(depths)) <= FEW else 7
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            text = "\N{EN DASH}" if cell is None else f"{100 * cell:.0f}"
            color = "white" if cell is not None and cell > DARK else INK
            axes.text(x, y, text, ha="center", va="center", color=color, fontsize=size)
    axes.set_xticks(range(len(lengths)), [short_count(length) for length in lengths], fontsize=size)
    axes.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths], fontsize=size)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)

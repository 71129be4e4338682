"""The picture of what the memories of a model did at each token of a text."""

from itertools import cycle, groupby
from pathlib import Path
from statistics import fmean

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from titans.files import write_atomically
from titans.report.inspection import HeadTrace, Inspection
from titans.report.style import BLUE, GREEN, HEAT, INK, LIGHT_BLUE, LIGHT_ORANGE, MUTED, ORANGE, PURPLE, styled

ROWS = {
    "surprise": "surprise",
    "written": "written",
    "alpha": "forget \N{GREEK SMALL LETTER ALPHA}",
    "eta": "momentum \N{GREEK SMALL LETTER ETA}",
    "theta": "step \N{GREEK SMALL LETTER THETA}",
    "step": "step, guarded",
}
MAX_CURVES = 200  # tokens; more are drawn as strips of colour
MAX_COLUMNS = 600  # of a strip; more tokens are averaged
HEAD_COLORS = (BLUE, ORANGE, PURPLE, GREEN, LIGHT_BLUE, LIGHT_ORANGE, INK, MUTED)
LEFT, RIGHT, HEAD, STRIP, GAP, FOOT = 1.5, 0.7, 0.38, 0.5, 0.09, 0.5  # inches
CHARACTER = 0.075  # inches for each token under curves


def window_size(tokens: int) -> int:
    """Tokens that share one column of the picture, which shows their mean."""
    return -(-tokens // MAX_COLUMNS) if tokens > MAX_CURVES else 1


def draw(inspection: Inspection, *paths: Path) -> None:
    """Writes the picture to files, each of the kind that its suffix says (svg, png).

    Every quantity of every block has a row: curves above the text while that is short enough to be read, otherwise
    strips of colour with a line for each head.
    """
    with styled(), rc_context({"font.family": ["DejaVu Sans", "sans-serif"]}):
        figure = _picture(inspection)
        for path in paths:
            _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    kind = path.suffix.lstrip(".")
    same_every_time = {"Date": None} if kind == "svg" else {"Software": None}
    write_atomically(path, lambda temporary: figure.savefig(temporary, format=kind, dpi=150, metadata=same_every_time))


def _picture(inspection: Inspection) -> Figure:
    count = len(inspection.text)
    curves = count <= MAX_CURVES
    blocks = [(block, list(heads)) for block, heads in groupby(inspection.heads, key=lambda head: head.block)]
    block_height = HEAD + len(ROWS) * (STRIP + GAP) + FOOT
    inside = max(6.0, CHARACTER * count) if curves else 12.0
    width, height = LEFT + inside + RIGHT, block_height * len(blocks)
    figure = Figure(figsize=(width, height))
    for place, (block, heads) in enumerate(blocks):
        top = height - place * block_height
        figure.text(0.1 / width, (top - 0.08) / height, f"Block {block}", fontsize=11, fontweight="bold", va="top")
        if curves:
            _name_heads(figure, heads, LEFT / width, (top - 0.1) / height)
        for row, name in enumerate(ROWS):
            bottom = top - HEAD - (row + 1) * (STRIP + GAP) + GAP
            axes = figure.add_axes((LEFT / width, bottom / height, inside / width, STRIP / height))
            values = [getattr(head, name) for head in heads]
            if curves:
                _curves(axes, values)
            else:
                _strips(axes, values, count)
            middle = (bottom + STRIP / 2) / height
            figure.text(0.1 / width, middle, ROWS[name], color=MUTED, fontsize=8.5, va="center")
            axes.set_xlim(0.5, count + 0.5)
            axes.tick_params(axis="x", labelbottom=False, length=0)
            if row == len(ROWS) - 1:
                _label_tokens(axes, inspection.text, curves)
    return figure


def _curves(axes: Axes, values: list[list[float]]) -> None:
    """One line for each head."""
    for line, color in zip(values, cycle(HEAD_COLORS)):
        axes.step(range(1, len(line) + 1), line, where="mid", color=color, linewidth=1.1)
    top = max(map(max, values))
    axes.set_ylim(0, 1.05 * top or 1)
    axes.set_yticks([0, top] if top else [0], ["0", f"{top:.3g}"] if top else ["0"], fontsize=7)


def _strips(axes: Axes, values: list[list[float]], count: int) -> None:
    """One line of colour for each head, the darkest where its row of the picture is largest."""
    size = window_size(count)
    shown = [[fmean(line[start : start + size]) for start in range(0, count, size)] for line in values]
    top = max(map(max, shown))
    columns = len(shown[0])
    axes.imshow(
        shown,
        cmap=HEAT,
        vmin=0,
        vmax=top,
        aspect="auto",
        interpolation="nearest",
        extent=(0.5, columns * size + 0.5, len(values) - 0.5, -0.5),
    )
    axes.set_yticks([0, len(values) - 1], ["head 0", f"{len(values) - 1}"], fontsize=7)
    axes.annotate(
        f"0 to {top:.3g}", (1, 0.5), (5, 0), "axes fraction", textcoords="offset points", va="center", fontsize=7
    )
    axes.grid(visible=False)


def _label_tokens(axes: Axes, text: list[str], curves: bool) -> None:
    if curves:
        axes.set_xticks(range(1, len(text) + 1), [_visible(character) for character in text], fontsize=6.5)
        axes.tick_params(axis="x", labelbottom=True, labelcolor=INK, pad=2)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        axes.tick_params(axis="x", labelbottom=True, labelsize=8, length=3)
        size = window_size(len(text))
        axes.set_xlabel("token of the text" + (f" (each column the mean of {size})" if size > 1 else ""), fontsize=8)


def _visible(characters: str) -> str:
    """What can stand in a picture: signs for line ends and tabs, a dot for what has no form."""
    signs = {"\n": "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}", "\t": "\N{RIGHTWARDS ARROW}"}
    return "".join(
        signs.get(character, character if character.isprintable() else "\N{MIDDLE DOT}") for character in characters
    )


def _name_heads(figure: Figure, heads: list[HeadTrace], left: float, top: float) -> None:
    width = figure.get_figwidth()
    for place, (head, color) in enumerate(zip(heads, cycle(HEAD_COLORS))):
        figure.text(left + 0.6 * place / width, top, f"head {head.head}", color=color, fontsize=8.5, va="top")

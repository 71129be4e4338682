"""How every figure looks: colours per model, panel size, and SVG that can stand inside a page.

The colours stay apart for colour-blind readers: blues are the memory, oranges the model without one, and a
dashed line is the weaker or the longer-trained version of the solid line in the same hue.
"""

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from titans.files import write_atomically

INK, MUTED, RULE, GRID = "#1f2933", "#5f6c7b", "#b8c1cc", "#e6eaef"
BLUE, LIGHT_BLUE, ORANGE, LIGHT_ORANGE = "#0b5cad", "#3b93d6", "#c2410c", "#dd7f16"
PURPLE, GREEN = "#7a5195", "#3b7a57"
HEAT = LinearSegmentedColormap.from_list("heat", ["#f7f9fb", "#b5d3ee", "#4a93d1", BLUE, "#083a70"])

PANEL_SIZE = (4.4, 3.1)  # inches: 317 SVG pixels wide, so a phone shows the text in nearly its nominal size
LEGEND_ROW = 0.18  # inches
PANEL_AXES = (0.115, 0.145, 0.775, 0.585)  # left, bottom, width, height of the plot, as shares of the panel

SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "titans",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.color": MUTED,
    "ytick.left": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 5.0,
}


class LineStyle(NamedTuple):
    """How one model's lines are drawn, in every figure."""

    color: str
    dash: Literal["-", "--"] = "-"
    marker: str = "o"


KNOWN_STYLES = {
    "titans": LineStyle(BLUE),
    "memory on": LineStyle(BLUE),
    "memory frozen": LineStyle(LIGHT_BLUE, "--", "s"),
    "control": LineStyle(ORANGE, marker="^"),
    "control_equal_time": LineStyle(LIGHT_ORANGE, "--", "v"),
    "control, equal time": LineStyle(LIGHT_ORANGE, "--", "v"),
}
_COLORS = (PURPLE, GREEN, INK, BLUE, ORANGE, LIGHT_BLUE)
_MARKERS = ("D", "P", "X", "*", "<", ">")
SPARE_STYLES = tuple(  # 36: a colour's marker changes with its dash, as a legend's line is too short to show that
    LineStyle(color, dash, _MARKERS[(number + turn) % len(_MARKERS)])
    for turn, dash in enumerate(("-", "--") * 3)
    for number, color in enumerate(_COLORS)
)


def line_styles(names: Iterable[str]) -> dict[str, LineStyle]:
    """The style of each name: its own where it has one, else the next spare one."""
    spare = cycle(SPARE_STYLES)
    return {name: KNOWN_STYLES[name] if name in KNOWN_STYLES else next(spare) for name in names}


@contextmanager
def styled() -> Iterator[None]:
    """While this lasts, matplotlib draws in this report's style."""
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        # Only the measuring font lacks these; the reader's browser draws the text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def new_panel(title: str, subtitle: str = "", x_label: str = "", lines: int = 0) -> tuple[Figure, Axes]:
    """One empty plot with its title, and beside it in small what the vertical axis means.

    Args:
        lines: how many the legend will name; it has room for four, with more the panel becomes taller.
    """
    (width, usual), (left, bottom, across, up) = PANEL_SIZE, PANEL_AXES
    height = usual + LEGEND_ROW * max(0, -(-lines // 2) - 2)
    share = usual / height
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((left, bottom * share, across, up * share))
    figure.text(0.02, 1 - 0.025 * share, title, fontsize=11, fontweight="bold", va="top")
    figure.text(0.02, 1 - 0.1 * share, subtitle, fontsize=9, color=MUTED, va="top")
    axes.set_xlabel(x_label)
    axes.tick_params(axis="y", pad=1)
    return figure, axes


def add_legend(figure: Figure, styles: dict[str, LineStyle], labels: dict[str, str]) -> None:
    """Names the lines, two to a row, above the plot."""
    names = [*styles][::2] + [*styles][1::2]  # matplotlib fills column after column, people read row after row
    drawn = [styles[name] for name in names]
    figure.legend(
        [Line2D([], [], color=style.color, linestyle=style.dash, marker=style.marker) for style in drawn],
        [_shorten(labels.get(name, name)) for name in names],
        loc="lower left",
        bbox_to_anchor=(0.01, figure.axes[0].get_position().y1 + 0.01),
        ncols=2,
        frameon=False,
        fontsize=9,
        handlelength=1.8,
        columnspacing=1.2,
        labelspacing=0.25,
        borderpad=0,
        borderaxespad=0,
    )


def to_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an inline `<svg>` element: as wide as its container, the same on every run.

    Args:
        name: prefix of the ids inside; no two figures on a page may share it.
        description: what a reader who cannot see the figure is told.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(buffer.getvalue())
    used = set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", buffer.getvalue()))
    for parent in list(root.iter()):
        parent.tag = parent.tag.split("}")[1]
        parent.attrib = {key.split("}")[-1]: value for key, value in parent.items()}
        for child in [c for c in parent if c.tag.endswith("}style")]:
            parent.remove(child)  # its rule would hold for the whole page
    for element in root.iter():
        for key, value in element.items():
            element.set(key, _attribute(key, value, name))
        if element.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]
        if element.get("id", "").removeprefix(f"{name}-") not in used:
            element.attrib.pop("id", None)
    root.attrib = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": root.attrib["viewBox"],
        "width": "100%",
        "role": "img",
        "aria-label": description,
        "style": "stroke-linejoin: round; stroke-linecap: butt",
    }
    ElementTree.indent(root, space="")
    return ElementTree.tostring(root, encoding="unicode")


def save_svg(figure: Figure, path: Path) -> None:
    """The figure as a file of its own: letters as shapes, as it cannot rely on a page's font."""
    with matplotlib.rc_context({"svg.fonttype": "path"}):
        write_atomically(path, lambda temporary: figure.savefig(temporary, format="svg", metadata={"Date": None}))


def _attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-")
    value = value.replace("url(#", f"url(#{name}-").replace("font-family: 'DejaVu Sans'; ", "")
    return re.sub(r"(\d\.\d\d)\d+", r"\1", value).replace(" \n", " ").strip()


def _shorten(label: str) -> str:
    return label if len(label) <= 26 else f"{label[:25]}\N{HORIZONTAL ELLIPSIS}"

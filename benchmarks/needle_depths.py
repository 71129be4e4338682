"""The needle heat map of several models in one picture: a row for each kind, a column for each model.

`titans report FOLDER` draws the same on a page of its own, a panel after the other.

    python benchmarks/needle_depths.py docs/results/needles/by_depth
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from titans.report.heat_maps import heat_map
from titans.report.results import TaskScore, read_results
from titans.report.style import save_svg, styled

PICTURE = "by_depth.svg"
PANEL = 2.6, 1.9  # inches


def draw(scores: Sequence[TaskScore], path: Path) -> None:
    """Share found in %, by length of the text and depth of the needle, of all scores that have a depth."""
    found = {(s.task, s.model, s.depth, s.length): s.accuracy for s in scores if s.depth is not None}
    tasks, models = sorted({key[0] for key in found}), sorted({key[1] for key in found})
    depths, lengths = sorted({key[2] for key in found}), sorted({key[3] for key in found})
    with styled():
        size = PANEL[0] * len(models), PANEL[1] * len(tasks)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(len(tasks), len(models), squeeze=False)
        for row, task in enumerate(tasks):
            for column, model in enumerate(models):
                axes = panels[row, column]
                shares = [[found.get((task, model, depth, length)) for length in lengths] for depth in depths]
                heat_map(axes, shares, lengths, depths)
                axes.set_title(f"{model}: {task}", fontsize=8)
                axes.label_outer()
        figure.supxlabel("tokens of the text", fontsize=9)
        figure.supylabel("depth of the needle", fontsize=9)
        save_svg(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with a results.json")
    folder = parser.parse_args().folder
    draw(read_results(folder).scores, folder / PICTURE)
    print(folder / PICTURE)


if __name__ == "__main__":
    main()

"""The picture of needles by depth: a panel for each kind and model, a number in each cell."""

import re
from itertools import product
from pathlib import Path

from needle_depths import draw

from titans.report.results import TaskScore


def test_every_score_with_a_depth_is_in_the_picture(tmp_path: Path) -> None:
    cells = product(("one", "two"), ("n", "w"), (2048, 131072), (0.0, 0.2, 1.0))
    scores = [
        TaskScore(model=model, task=f"needles {kind}", length=length, depth=depth, accuracy=percent / 100, samples=4)
        for percent, (model, kind, length, depth) in enumerate(cells, 40)
    ]
    anywhere = TaskScore(model="one", task="needles pk", length=512, accuracy=0.33, samples=4)
    draw([*scores, anywhere], tmp_path / "depths.svg")
    texts = re.findall(r"<!-- (.*?) -->", (tmp_path / "depths.svg").read_text())
    assert [texts.count(str(percent)) for percent in range(40, 64)] == [1] * 24
    assert {"one: needles n", "one: needles w", "two: needles n", "two: needles w", "2k", "128k"} <= set(texts)
    assert "33" not in texts

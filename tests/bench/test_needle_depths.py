"""The picture of needles by depth: a panel for each kind and model, a number in each cell."""

import re
from pathlib import Path

from needle_depths import draw

from titans.report.results import TaskScore


def test_every_score_with_a_depth_is_in_the_picture(tmp_path: Path) -> None:
    scores = [
        TaskScore(model=model, task=f"needles {kind}", length=length, depth=depth, accuracy=0.5 + depth / 4, samples=4)
        for model in ("one", "two")
        for kind in ("n", "w")
        for length in (2048, 131072)
        for depth in (0.0, 0.2, 1.0)
    ]
    anywhere = TaskScore(model="one", task="needles pk", length=512, accuracy=0.33, samples=4)
    draw([*scores, anywhere], tmp_path / "depths.svg")
    texts = re.findall(r"<!-- (.*?) -->", (tmp_path / "depths.svg").read_text())
    for share in ("50", "55", "75"):
        assert texts.count(share) == len(scores) // 3
    assert {"one: needles n", "one: needles w", "two: needles n", "two: needles w", "2k", "128k"} <= set(texts)
    assert "33" not in texts

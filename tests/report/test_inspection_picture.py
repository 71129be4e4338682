import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.image import imread

from titans.report.inspection import QUANTITIES, HeadTrace, Inspection
from titans.report.inspection_picture import MAX_COLUMNS, MAX_CURVES, ROWS, _picture, draw, window_size
from titans.report.style import styled


def made(count: int, heads: int = 2, blocks: int = 2) -> Inspection:
    random = np.random.default_rng(0)
    return Inspection(
        text=[chr(ord("a") + i % 26) for i in range(count)],
        heads=[
            HeadTrace(block=block, head=head, **{name: random.random(count).tolist() for name in QUANTITIES})
            for block in range(blocks)
            for head in range(heads)
        ],
    )


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def panels(found: Inspection):
    with styled():
        return _picture(found).axes


def test_a_row_for_every_quantity():
    assert list(ROWS) == list(QUANTITIES)


def test_short_texts_are_curves_of_the_very_numbers():
    found = made(MAX_CURVES, heads=3)
    axes = panels(found)
    assert len(axes) == 2 * len(QUANTITIES)
    for place, panel in enumerate(axes):
        block, row = divmod(place, len(QUANTITIES))
        name = QUANTITIES[row]
        drawn = [line.get_ydata().tolist() for line in panel.lines]
        assert drawn == [getattr(head, name) for head in found.heads if head.block == block]
    labels = [label.get_text() for label in axes[-1].get_xticklabels()]
    assert labels == found.text


@pytest.mark.parametrize("count", [MAX_CURVES + 1, MAX_COLUMNS, 2 * MAX_COLUMNS + 1])
def test_long_texts_are_strips_of_means(count):
    found = made(count)
    size = window_size(count)
    assert size == {MAX_CURVES + 1: 1, MAX_COLUMNS: 1}.get(count, 3)
    for place, panel in enumerate(panels(found)):
        block, row = divmod(place, len(QUANTITIES))
        lines = [getattr(head, QUANTITIES[row]) for head in found.heads if head.block == block]
        expected = [[np.mean(line[start : start + size]) for start in range(0, count, size)] for line in lines]
        np.testing.assert_allclose(panel.images[0].get_array(), expected)
        assert panel.get_xlim() == (0.5, count + 0.5)


def test_both_kinds_of_file_and_the_same_every_time(tmp_path):
    found = made(12)
    paths = [tmp_path / "a.svg", tmp_path / "a.png"]
    draw(found, *paths)
    first = [path.read_bytes() for path in paths]
    draw(found, *paths)
    assert [path.read_bytes() for path in paths] == first
    assert {"Block 0", "Block 1", "head 1", "forget \N{GREEK SMALL LETTER ALPHA}", *found.text} <= set(
        texts(first[0].decode())
    )
    assert imread(paths[1]).std() > 0


def test_any_character_can_be_drawn(tmp_path, hostile):
    found = made(len(hostile), blocks=1)
    draw(Inspection(text=list(hostile), heads=found.heads), tmp_path / "a.svg")
    shown = texts((tmp_path / "a.svg").read_text(encoding="utf-8"))
    assert {"$", "<", "日", "\N{MIDDLE DOT}"} <= set(shown)


def test_a_memory_that_does_nothing_and_a_single_token_are_drawn(tmp_path):
    still = HeadTrace(block=0, head=0, **{name: [0.0] for name in QUANTITIES})
    draw(Inspection(text=["a"], heads=[still]), tmp_path / "a.svg")
    still = HeadTrace(block=0, head=0, **{name: [0.0] * 300 for name in QUANTITIES})
    draw(Inspection(text=["a"] * 300, heads=[still]), tmp_path / "b.svg")
    assert "0 to 0" in texts((tmp_path / "b.svg").read_text())

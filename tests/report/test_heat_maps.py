import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from titans.report import heat_maps
from titans.report.results import Recall, TaskScore
from titans.report.style import HEAT, INK


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_recall_writes_every_cell_and_marks_window_and_training(results):
    titans, control = heat_maps.recall_figure(results.recall, {"titans": "Titans (MAG)"})
    assert {"Titans (MAG)", "75", "25", "\N{EN DASH}", "window 64", "trained to 128", "4k"} <= set(texts(titans))
    assert texts(titans).count("100") == 6
    assert "control" in texts(control)


@pytest.mark.parametrize("window", [1, 10**6])
def test_a_window_outside_the_distances_is_marked_at_the_edge(window):
    recall = Recall(
        distances=[32], depths=[0.5], window=window, trained_to=64, samples=1, accuracy={"a": [[None]]}, chance=0.0
    )
    assert any(text.startswith("window") for text in texts(heat_maps.recall_figure(recall, {})[0]))


def places(svg: str) -> dict[str, tuple[float, float]]:
    """Where each text stands, from left and from top; of equal ones the last."""
    root = ElementTree.fromstring(svg)
    return {e.text or "": (float(e.attrib["x"]), float(e.attrib["y"])) for e in root.iter() if e.tag.endswith("text")}


def test_needles_have_a_panel_for_each_model_with_the_same_cells(results):
    needles = [needle for needle in results.scores if needle.task == "needles n"]
    titans, control = heat_maps.depths_figure(needles, {"titans": "Titans (MAG)"}, "n")
    for panel, label in ((titans, "Titans (MAG)"), (control, "control")):
        assert {label, "2k", "2M", "0%", "50%", "100%"} <= set(texts(panel))
    assert {"99", "61", "7", "42"} <= set(texts(titans))
    assert "\N{EN DASH}" not in texts(titans)
    assert texts(control).count("\N{EN DASH}") == 4
    assert "13" in texts(control)


def test_needles_stand_at_their_length_and_depth(results):
    at = places(heat_maps.depths_figure(results.scores[:5], {}, "n")[0])
    for number, length, depth in (("99", "2k", "0%"), ("61", "2M", "0%"), ("42", "2k", "50%"), ("7", "2M", "100%")):
        assert at[number][0] == pytest.approx(at[length][0], abs=3)
        assert at[number][1] == pytest.approx(at[depth][1], abs=3)
    assert at["2k"][0] < at["2M"][0]
    assert at["0%"][1] < at["50%"][1] < at["100%"][1]


def test_many_lengths_and_depths_are_all_drawn():
    needles = [
        TaskScore(
            model="m", task="needles pk", length=2048 * 2**i, depth=j / 10, accuracy=1.0, tokens_accuracy=1.0, samples=1
        )
        for i in range(11)
        for j in range(11)
    ]
    found = texts(heat_maps.depths_figure(needles, {}, "n")[0])
    assert {"2k", "64k", "2M"} <= set(found)
    assert found.count("100") == 121


@pytest.mark.parametrize("share", np.linspace(0, 1, 21).tolist())
def test_numbers_can_be_read_on_their_cells(share):
    needle = TaskScore(
        model="m", task="needles pk", length=2048, depth=0.5, accuracy=share, tokens_accuracy=share, samples=1
    )
    root = ElementTree.fromstring(heat_maps.depths_figure([needle], {}, "n")[0])
    [number] = [e for e in root.iter() if e.text == f"{100 * share:.0f}" and e.tag.endswith("text")]
    color = "white" if "#ffffff" in number.attrib["style"] else INK
    light, dark = sorted((luminance(to_rgb(color)), luminance(HEAT(share)[:3])), reverse=True)
    assert (light + 0.05) / (dark + 0.05) > 3.7


def luminance(rgb) -> float:
    """Relative luminance as WCAG 2 defines it."""
    linear = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

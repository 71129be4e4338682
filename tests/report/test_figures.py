import re
import xml.etree.ElementTree as ElementTree

import pytest

from titans.report import figures
from titans.report.results import Distance, Stream, StreamPoint, TaskScore, Training, TrainingPoint


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_training_shows_both_axes_labels_and_last_held_out_values(results):
    panels = figures.training_figure(results.training, {"titans": "Titans (MAG)", "control": "Attention only"})
    assert len(panels) == 2
    for panel in panels:
        assert {"Titans (MAG)", "Attention only", "2.00", "2.10", "lower is better"} <= set(texts(panel))
    assert "tokens trained on" in texts(panels[0])
    assert "seconds of training" in texts(panels[1])


@pytest.mark.parametrize(("seconds", "unit"), [(10, "seconds"), (1000, "minutes"), (20_000, "hours")])
def test_time_is_shown_in_a_unit_of_its_size(seconds, unit):
    training = Training(curves={"titans": [TrainingPoint(tokens=1, seconds=seconds, bits=1.0)]})
    assert f"{unit} of training" in texts(figures.training_figure(training, {})[1])


def test_batches_are_averaged_in_groups():
    points = [TrainingPoint(tokens=i, seconds=i, bits=float(i % 2)) for i in range(1, 1001)]
    points.append(TrainingPoint(tokens=1001, seconds=1001, bits=None))
    means = figures.batch_means(points)
    assert len(means) == figures.MAX_BATCH_POINTS
    assert means[-1].tokens == 1000
    assert sum(point.bits or 0 for point in means) / len(means) == pytest.approx(0.5)


def test_distance_is_also_shown_as_difference_to_the_control(results):
    absolute, difference = figures.distance_figure(results.distance)
    assert {"memory on", "memory frozen", "control", "control, equal time"} <= set(texts(absolute))
    assert "control" not in texts(difference)
    assert {"0", "64", "4k", "8k"} <= set(texts(difference))
    alone = Distance(buckets=[(0, 64)], series={"memory on": [2.0]}, bytes=[1])
    assert len(figures.distance_figure(alone)) == 1


def test_stream_shows_bits_per_byte_only_where_measured(results):
    assert len(figures.stream_figure(results.stream)) == 3
    point = StreamPoint(tokens=0, seconds=0.0, resident_mb=0.0, tokens_per_second=0.0)
    assert len(figures.stream_figure(Stream(points=[point]))) == 2


@pytest.mark.parametrize("bits", [None, 2.0])
@pytest.mark.parametrize("validation", [False, True])
def test_a_single_point_or_none_is_drawn(bits, validation):
    point = TrainingPoint(tokens=0, seconds=0.0, bits=bits, validation=validation)
    for panel in figures.training_figure(Training(curves={"titans": [point], "control": []}), {}):
        assert ("2.00" in texts(panel)) == (bits is not None)
        assert not re.search(r"\bnan\b", panel)


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (64, "64"), (1000, "1,000"), (4096, "4k"), (1_048_576, "1M"), (1_050_624, "1026k")]
)
def test_short_count(number, text):
    assert figures.short_count(number) == text


def task_scores(models: int) -> list[TaskScore]:
    shares = {512: (1.0, 0.5), 2048: (0.25, 0.0)}
    return [
        TaskScore(
            model=f"m{m}", task="t", length=n, accuracy=share, tokens_accuracy=share, samples=samples, depth=depth
        )
        for m in range(models)
        for n, (one, other) in shares.items()
        for share, samples, depth in ((one, 10, 0.0), (other, 30, 1.0))
    ]


def test_accuracy_by_length_counts_every_sample_once():
    assert figures.pooled_accuracy(task_scores(1)) == {512: 0.625, 2048: 0.0625}


@pytest.mark.parametrize("models", [1, 4, 5, 12])
def test_a_legend_of_any_size_has_its_own_room(models):
    root = ElementTree.fromstring(figures.lengths_figure(task_scores(models), {"m0": "Titans"}, "t"))
    at = {e.text: float(e.attrib["y"]) for e in root.iter() if e.tag.endswith("text")}
    named = [at["Titans"], *(at[f"m{m}"] for m in range(1, models))]
    assert at["% of the samples; higher is better"] < min(named)
    assert max(named) < at["100"] + 1
    assert {"512", "2k"} <= at.keys()


def test_lengths_up_to_two_million_have_room_for_their_names():
    scores = [
        TaskScore(model="m", task="t", length=2**n, accuracy=1.0, tokens_accuracy=1.0, samples=1) for n in range(9, 22)
    ]
    named = texts(figures.lengths_figure(scores, {}, "t"))
    assert [name for name in named if name[-1] in "kM2"] == ["512", "2k", "8k", "32k", "128k", "512k", "2M"]


def test_a_point_stands_at_its_length_though_the_model_has_no_shorter_one():
    shares = (("a", 512, 1.0), ("a", 2048, 1.0), ("b", 2048, 0.5))
    scores = [
        TaskScore(model=model, task="t", length=length, accuracy=share, tokens_accuracy=share, samples=1)
        for model, length, share in shares
    ]
    root = ElementTree.fromstring(figures.lengths_figure(scores, {}, "t"))
    at = {e.text: e.attrib for e in root.iter() if e.tag.endswith("text")}
    middle = (float(at["40"]["y"]) + float(at["60"]["y"])) / 2
    marks = [e.attrib for e in root.iter() if e.tag.endswith("use")]
    [point] = [float(mark["x"]) for mark in marks if abs(float(mark["y"]) - middle) < 6]
    assert point == pytest.approx(float(at["2k"]["x"]), abs=1)


def test_the_shade_of_a_line_is_as_high_as_its_intervals():
    scores = [
        TaskScore(model="m", task="t", length=length, accuracy=share, samples=10, depth=depth)
        for length, share in ((512, 1.0), (2048, 0.5))
        for depth in (0.0, 1.0)  # taken together: 20 samples
    ]
    drawn = figures.lengths_figure(scores, {}, "t")
    at = {e.text: float(e.attrib["y"]) for e in ElementTree.fromstring(drawn).iter() if e.tag.endswith("text")}
    percent = (at["0"] - at["100"]) / 100
    [shade] = re.findall(r'<path id="([\w-]+)" d="([^"]+) z"', drawn)[:1]
    assert re.search(rf'href="#{shade[0]}"[^>]+fill-opacity: 0.12', drawn)
    corners: dict[float, list[float]] = {}
    for x, y in re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", shade[1]):
        corners.setdefault(float(x), []).append(float(y))
    heights = [(max(ys) - min(ys)) / percent for _, ys in sorted(corners.items())]
    assert heights == pytest.approx([16.1, 40.2], abs=0.2)  # Wilson: 83.9 to 100 % and 29.9 to 70.1 %

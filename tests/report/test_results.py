import json
from dataclasses import replace

import pytest

from titans.errors import TitansError
from titans.report.results import Distance, Recall, Results, Training, read_results, write_results


def test_what_is_written_is_read_back_equal(tmp_path, results):
    path = write_results(tmp_path, results)
    assert path == tmp_path / "results.json"
    assert read_results(tmp_path) == results


def test_only_a_title_is_required(tmp_path):
    (tmp_path / "results.json").write_text('{"title": "t"}')
    assert read_results(tmp_path) == Results(title="t")
    assert read_results(tmp_path).is_empty()


def test_machines_have_the_labels_of_what_they_measured(results):
    first, *others = results.scores
    where = [replace(first, machine="one"), *(replace(score, machine="two") for score in others)]
    unknown = replace(first, model="by_hand", machine=None)
    labels = dict.fromkeys(results.label(score.model) for score in others)
    measured = replace(results, scores=[*where, unknown]).measured_on()
    assert measured == {"one": results.label(first.model), "two": "; ".join(labels)}


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("recall", {"window": None}, "recall.window should be a whole number, not null"),
        ("recall", {"depths": [0.5]}, "recall.accuracy.titans should have 1 values, one for each of depths, not 3"),
        ("recall", {"distances": [3, 2, 1, 0]}, "recall.distances should be ascending, not [3, 2, 1, 0]"),
        ("distance", {"bytes": [1]}, "distance.bytes should have 3 values, one for each of buckets, not 1"),
        ("distance", {"buckets": [[0, 64], [65, 70], [70, 80]]}, "distance.buckets should be [start, end) pairs"),
        ("stream", {"points": []}, "stream.points should not be empty; leave the section out instead"),
    ],
)
def test_a_wrong_section_is_one_line_that_names_file_and_key(tmp_path, results, section, change, message):
    value = json.loads(write_results(tmp_path, results).read_text())
    value[section].update(change)
    (tmp_path / "results.json").write_text(json.dumps(value))
    with pytest.raises(TitansError) as error:
        read_results(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'results.json'}: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracy": 1.5}, "scores[2].accuracy should be a share from 0 to 1, not 1.5"),
        ({"depth": -0.1}, "scores[2].depth should be a share from 0 to 1, not -0.1"),
        ({"samples": 0}, "scores[2].samples should be at least 1, not 0"),
        ({"length": "2k"}, "scores[2].length should be a whole number, not text"),
        (
            {"depth": 0.0},
            "scores should hold each model, task, length and depth once; ('titans', 'needles n', 2048, 0.0) is there 2",
        ),
    ],
)
def test_a_wrong_score_is_named(tmp_path, results, change, message):
    value = json.loads(write_results(tmp_path, results).read_text())
    value["scores"][2].update(change)
    (tmp_path / "results.json").write_text(json.dumps(value))
    with pytest.raises(TitansError) as error:
        read_results(tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_writer_who_errs_learns_it_at_once():
    with pytest.raises(ValueError, match="curves should not be empty"):
        Training(curves={})
    with pytest.raises(ValueError, match="series should not be empty"):
        Distance(buckets=[(0, 1)], series={}, bytes=[1])
    with pytest.raises(ValueError, match=r"a row of accuracy\.a should have 1 values"):
        Recall(distances=[1], depths=[0.0], window=1, trained_to=1, samples=1, accuracy={"a": [[0.5, 0.5]]}, chance=0.1)


def test_a_model_without_summary_is_called_by_its_name(results):
    assert results.label("titans") == "Titans (MAG)"
    assert results.label("control_equal_time") == "control equal time"


def test_recall_is_counted_beyond_the_window_and_where_it_was_measured():
    accuracy: dict[str, list[list[float | None]]] = {"titans": [[1.0, 0.8, 0.4], [1.0, None, 0.3]]}
    recall = Recall(
        distances=[32, 64, 128], depths=[0.0, 0.5], window=32, trained_to=64, samples=4, accuracy=accuracy, chance=0.1
    )
    assert recall.beyond_window("titans") == pytest.approx(0.5)
    assert replace(recall, window=128).beyond_window("titans") is None

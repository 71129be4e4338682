import json
import math
from pathlib import Path

import pytest

from titans.errors import TitansError
from titans.training.metrics import Meter, MetricsFile


def test_a_line_is_the_mean_since_the_last_one() -> None:
    meter = Meter()
    meter.count(9.0, 100, 1.0)
    meter.line(1, grad_norm=1.0, learning_rate=0.1)
    meter.count(2.0, 100, 0.5)
    meter = Meter.from_dict(json.loads(json.dumps(meter.to_dict())))
    meter.count(4.0, 100, 1.5)
    line = meter.line(3, grad_norm=0.5, learning_rate=0.2)
    assert line == {
        "step": 3,
        "tokens": 300,
        "seconds": 3.0,
        "loss": 3.0,
        "bits_per_token": 3.0 / math.log(2),
        "grad_norm": 0.5,
        "lr": 0.2,
        "tokens_per_second": 100.0,
    }


def test_lines_after_the_kept_length_are_dropped(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path)
    metrics.append({"step": 1})
    kept = metrics.length
    metrics.append({"step": 2})
    resumed = MetricsFile(tmp_path, kept)
    resumed.append({"step": 3})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 3]


def test_a_new_run_begins_empty_and_a_lost_file_is_begun_again(tmp_path: Path) -> None:
    MetricsFile(tmp_path).append({"step": 1})
    assert MetricsFile(tmp_path).length == 0
    assert MetricsFile(tmp_path, 500).length == 0


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TitansError, match="choose another folder"):
        MetricsFile(tmp_path / "file")


def test_of_a_file_that_has_become_shorter_whole_lines_are_kept(tmp_path: Path, caplog) -> None:
    for number in (1, 2):
        MetricsFile(tmp_path, 12 * (number - 1)).append({"step": number})
    metrics = MetricsFile(tmp_path, 24)
    assert not caplog.records
    with (tmp_path / "metrics.jsonl").open("r+b") as file:
        file.truncate(20)
    metrics = MetricsFile(tmp_path, 24)
    metrics.append({"step": 3})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 3}\n'
    assert "metrics.jsonl is shorter than it was" in caplog.text

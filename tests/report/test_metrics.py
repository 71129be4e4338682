import json

import pytest

from titans.errors import TitansError
from titans.report.metrics import read_metrics
from titans.report.results import TrainingPoint

BATCH = {"step": 1, "tokens": 64, "seconds": 0.5, "loss": 4.0, "bits_per_token": 5.5, "grad_norm": 1.0, "lr": 0.1}
HELD_OUT = {"step": 1, "tokens": 64, "seconds": 0.75, "validation_bits_per_token": 5.25}


def write(folder, *lines: str) -> None:
    (folder / "metrics.jsonl").write_text("".join(lines))


def test_reads_batches_and_validation_and_leaves_out_an_unfinished_line(tmp_path):
    write(tmp_path, json.dumps(BATCH) + "\n", "\n", json.dumps(HELD_OUT) + "\n", '{"step": 2, "tok')
    training = read_metrics(tmp_path).training
    assert training is not None
    assert training.unit == "bits per token"
    assert training.curves == {
        tmp_path.name: [
            TrainingPoint(tokens=64, seconds=0.5, bits=5.5),
            TrainingPoint(tokens=64, seconds=0.75, bits=5.25, validation=True),
        ]
    }


def test_a_diverged_loss_is_a_gap(tmp_path):
    write(tmp_path, json.dumps(BATCH | {"bits_per_token": float("nan")}) + "\n")
    training = read_metrics(tmp_path).training
    assert training is not None
    assert training.curves[tmp_path.name][0].bits is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{]", "line 2: Expecting"),
        ("[1]", "line 2: it should be an object, not a list"),
        ('{"tokens": 1, "seconds": 1.0}', "line 2: bits_per_token is missing"),
        ('{"tokens": "1", "seconds": 1.0, "bits_per_token": 1.0}', "line 2: tokens should be a whole number, not text"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, message):
    write(tmp_path, json.dumps(BATCH) + "\n", line + "\n")
    with pytest.raises(TitansError) as error:
        read_metrics(tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_log_says_so(tmp_path):
    write(tmp_path)
    with pytest.raises(TitansError, match="nothing to report yet"):
        read_metrics(tmp_path)


def test_bytes_that_are_not_text_are_an_error(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(TitansError, match="cannot read"):
        read_metrics(tmp_path)

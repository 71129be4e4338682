import gzip
import json
import os
from pathlib import Path

import pytest

from titans.cli.main import main


@pytest.fixture
def run(tmp_path: Path, text: Path, train, capsys) -> Path:
    assert train("run", "--text", text) == 0
    capsys.readouterr()
    return tmp_path / "run"


def evaluate(*arguments: str | Path) -> int:
    return main(["eval", "--piece", "64", *map(str, arguments)])


def test_bits_per_byte_by_distance_as_a_table_and_as_json(run: Path, text: Path, capsys) -> None:
    assert evaluate("--checkpoint", run, "--text", text, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    size = len(text.read_bytes())
    assert result["tokens"] == size - 1
    assert [bucket["label"] for bucket in result["by_distance"]] == ["0-64", "64-256", "256-1k", "1k-2k"]
    assert 6 < result["bits_per_byte"] < 9

    assert evaluate("--checkpoint", run / "checkpoint", "--text", text) == 0
    table = capsys.readouterr().out
    assert f"{result['bits_per_byte']:.4f} bits per byte over {size - 1:,} bytes" in table
    assert "64-256" in table


def test_without_a_text_it_is_the_one_held_out(run: Path, text: Path, capsys) -> None:
    assert evaluate("--checkpoint", run, "--json") == 0
    held_out = json.loads(capsys.readouterr().out)
    assert held_out["tokens"] == pytest.approx(len(text.read_bytes()) / 10, abs=3)
    last_line = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert evaluate("--checkpoint", run, "--json", "--max-tokens", last_line["validation_tokens"]) == 0


def test_a_gz_is_read_and_leaves_nothing_behind(run: Path, text: Path, tmp_path: Path, capsys) -> None:
    before = sorted(os.listdir(run))
    zipped = tmp_path / "text.txt.gz"
    zipped.write_bytes(gzip.compress(text.read_bytes()))
    results = []
    for source in (text, zipped):
        assert evaluate("--checkpoint", run, "--text", source, "--json") == 0
        results.append(json.loads(capsys.readouterr().out))
    assert results[0] == results[1]
    assert sorted(os.listdir(run)) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoint", "{tmp}/nowhere", "--text", "{text}"], "nowhere does not exist"),
        (["--checkpoint", "{tmp}", "--text", "{text}"], "holds no checkpoint"),
        (["--checkpoint", "{run}/checkpoint"], "not the folder of a run"),
        (["--checkpoint", "{run}", "--max-tokens", "0"], "--max-tokens is 0; it must be at least 1"),
    ],
)
def test_mistakes_are_one_clear_line(
    tmp_path: Path, run: Path, text: Path, options: list[str], message: str, capsys
) -> None:
    assert evaluate(*(option.format(tmp=tmp_path, run=run, text=text) for option in options)) == 2
    error = capsys.readouterr().err
    assert error.startswith("titans: error: ")
    assert message in error
    assert error.count("\n") == 1

import gzip
import json
import os
from pathlib import Path

import pytest
import torch

from titans.baselines import BaselineConfig, BaselineLM
from titans.cli.main import main
from titans.models.language_model import TitansLM


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
    found = json.loads(capsys.readouterr().out)["bits_per_byte"]
    assert found == pytest.approx(last_line["validation_bits_per_token"], rel=1e-4)


def test_what_was_held_out_is_found_by_the_name_of_the_checkpoint_too(run: Path, tmp_path: Path, capsys) -> None:
    for folder in (run, run / "checkpoint"):
        assert evaluate("--checkpoint", folder, "--json") == 0
    TitansLM.load(run / "checkpoint").save(tmp_path / "model")
    capsys.readouterr()
    assert evaluate("--checkpoint", tmp_path / "model") == 2
    assert "model is not the folder of a run, and does not say which text was held out: name one by --text" in (
        capsys.readouterr().err
    )


def test_of_a_text_that_has_changed_nobody_knows_what_was_held_out(run: Path, text: Path, capsys) -> None:
    text.write_text(text.read_text() + "and on it goes\n" * 10)
    assert evaluate("--checkpoint", run) == 2
    error = capsys.readouterr().err
    assert "text.txt has changed since" in error
    assert error.endswith("or name another text by --text\n")
    assert evaluate("--checkpoint", run, "--text", text) == 0
    capsys.readouterr()


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
        (["--checkpoint", "{run}", "--max-tokens", "0"], "--max-tokens is 0; it must be at least 1"),
        (["--checkpoint", "{run}", "--batch-size", "99999999999"], "--batch-size is 99999999999; it must be"),
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


def test_a_baseline_reads_several_documents(tmp_path: Path, capsys) -> None:
    torch.manual_seed(0)
    model = BaselineLM(BaselineConfig(name="llama", dim=16, num_layers=1, num_heads=2)).eval()
    model.save(tmp_path / "model")
    (tmp_path / "texts").mkdir()
    texts = [b"the quick brown fox " * 9, b"jumps over the lazy dog " * 5, b"and runs away " * 3]
    nats = 0.0
    for number, text in enumerate(texts):
        (tmp_path / "texts" / f"{number}.txt").write_bytes(text)
        tokens = torch.tensor([list(text)])
        with torch.no_grad():
            loss, _ = model.loss(tokens[:, :-1], tokens[:, 1:])
        nats += float(loss) * (len(text) - 1)
    asked = ("--checkpoint", tmp_path / "model", "--text", tmp_path / "texts", "--batch-size", "2", "--json")
    assert evaluate(*asked) == 0
    found = json.loads(capsys.readouterr().out)
    count = sum(map(len, texts)) - len(texts)
    assert found["tokens"] == count
    assert found["loss"] == pytest.approx(nats / count, rel=1e-4)

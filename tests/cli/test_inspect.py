import io
import json
import re
from pathlib import Path

import pytest
import torch

from titans.baselines import BaselineConfig, BaselineLM
from titans.cli.main import main
from titans.models.config import TitansConfig
from titans.models.inspection import memory_traces
from titans.models.language_model import TitansLM
from titans.report.inspection import QUANTITIES


@pytest.fixture
def run(tmp_path: Path, text: Path, train, capsys) -> Path:
    assert train("run", "--text", text) == 0
    capsys.readouterr()
    return tmp_path / "run"


def inspect(*arguments: str | Path) -> int:
    return main(["inspect", *map(str, arguments)])


def test_pictures_and_a_table(run: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "fox.svg"
    assert inspect("--checkpoint", run, "--prompt", "the quick brown fox", "--out", out) == 0
    shown = capsys.readouterr().out
    assert "Means over 19 tokens" in shown
    assert all(name in shown for name in QUANTITIES)
    assert shown.splitlines()[-2:] == [str(out), str(tmp_path / "fox.png")]
    assert out.read_text().lstrip().startswith("<?xml")
    assert (tmp_path / "fox.png").read_bytes().startswith(b"\x89PNG")


def test_where_a_picture_cannot_go_is_said_before_the_reading(run: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "fox.png").mkdir()
    assert inspect("--checkpoint", run, "--prompt", "fox", "--out", tmp_path / "fox.svg") == 2
    assert capsys.readouterr().err == (
        f"titans: error: cannot write {tmp_path / 'fox.png'}: it is not a regular file; name another\n"
    )
    assert not (tmp_path / "fox.svg").exists()


def test_numbers_are_whole_where_there_is_little_room(run: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "72")
    text = tmp_path / "long.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 20)
    assert inspect("--checkpoint", run, "--text", text, "--out", tmp_path / "fox.svg") == 0
    (row,) = (line.split() for line in capsys.readouterr().out.splitlines() if line.split()[:2] == ["0", "0"])
    assert all(re.fullmatch(r"\d+\.\d{3}", number) for number in row[2 : 2 + len(QUANTITIES)])


def test_json_holds_the_whole_text_and_the_numbers_of_the_trace(run: Path, text: Path, tmp_path: Path, capsys) -> None:
    options = ("--checkpoint", run, "--text", text, "--max-tokens", "50", "--out", tmp_path / "fox.png")
    assert inspect(*options, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    data = text.read_bytes()
    assert "".join(found["text"]) == data.decode()
    assert len(found["text"]) == len(data)
    assert found["drawn"] == 50
    traces = memory_traces(TitansLM.load(run / "checkpoint"), torch.tensor(list(data)))
    assert [(head["block"], head["head"]) for head in found["heads"]] == [(0, 0)]
    for name in QUANTITIES:
        assert found["heads"][0][name] == pytest.approx(getattr(traces[0].by_head(), name)[:, 0].tolist(), rel=1e-4)


def test_the_picture_is_the_same_with_and_without_json(run: Path, text: Path, tmp_path: Path) -> None:
    pictures = []
    for name, options in (("a.svg", []), ("b.svg", ["--json"])):
        options = ["--checkpoint", run, "--text", text, "--max-tokens", "30", "--out", tmp_path / name, *options]
        assert inspect(*options) == 0
        pictures.append((tmp_path / name).read_text())
    assert pictures[0] == pictures[1]


def test_standard_input_is_read(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("dög".encode())))
    assert inspect("--checkpoint", run, "--text", "-", "--json", "--out", tmp_path / "a.svg") == 0
    assert json.loads(capsys.readouterr().out)["text"] == ["d", "", "ö", "g"]


def test_one_block_is_chosen_among_those_with_a_memory(tmp_path: Path, capsys) -> None:
    config = TitansConfig(variant="mag", dim=8, num_layers=3, num_heads=1, window_size=8, memory_layers=(0, 2))
    TitansLM(config.replace(memory=config.memory.replace(num_heads=2))).save(tmp_path / "model")
    options = ("--checkpoint", tmp_path / "model", "--prompt", "x", "--json", "--out", tmp_path / "a.svg")
    for choice, blocks in (([], [0, 0, 2, 2]), (["--block", "2"], [2, 2])):
        assert inspect(*options, *choice) == 0
        assert [head["block"] for head in json.loads(capsys.readouterr().out)["heads"]] == blocks
    assert inspect(*options, "--block", "1") == 2
    assert "--block is 1; the blocks with a memory are 0, 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "attention"}, "has no memory to look into: its variant is attention"),
        ({"vocab_size": 300}, "has 300 token ids that stand for no text"),
    ],
)
def test_a_model_that_cannot_be_inspected_is_refused(tmp_path: Path, changes: dict, message: str, capsys) -> None:
    config = TitansConfig(dim=8, num_layers=1, num_heads=1, window_size=8)
    TitansLM(config.replace(memory=config.memory.replace(num_heads=1), **changes)).save(tmp_path / "model")
    assert inspect("--checkpoint", tmp_path / "model", "--prompt", "x") == 2
    assert message in capsys.readouterr().err


def test_a_baseline_cannot_be_inspected(tmp_path: Path, capsys) -> None:
    BaselineLM(BaselineConfig(name="llama", dim=8, num_layers=1, num_heads=1)).save(tmp_path / "model")
    assert inspect("--checkpoint", tmp_path / "model", "--prompt", "x") == 2
    assert "holds the baseline llama, which has no memory to look into" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "either --text, --prompt or --tokens"),
        (["--prompt", "x", "--text", "{text}"], "either --text, --prompt or --tokens"),
        (["--prompt", "x", "--tokens", "1"], "either --text, --prompt or --tokens"),
        (["--tokens", "1", "256"], "--tokens has 256; {model} knows the tokens 0 to 255"),
        (["--prompt", ""], "--prompt is empty"),
        (["--prompt", "x", "--max-tokens", "0"], "--max-tokens is 0; it must be at least 1"),
        (["--prompt", "x", "--out", "a.pdf"], "--out a.pdf should end in .svg or .png"),
        (["--text", "nowhere.txt"], "nowhere.txt does not exist"),
        (["--text", "{folder}"], "holds several texts: name one of its files"),
    ],
)
def test_mistakes_are_one_clear_line(
    tmp_path: Path, text: Path, options: list[str], message: str, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in "ab":
        (folder / name).write_text(name)
    TitansLM(TitansConfig(dim=8, num_layers=1, window_size=8)).save(tmp_path / "model")
    options = [option.format(text=text, folder=folder) for option in options]
    message = message.format(model=tmp_path / "model")
    assert inspect("--checkpoint", tmp_path / "model", *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("titans: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("inspect.*"))


def test_tokens_that_stand_for_no_text(tmp_path: Path, capsys) -> None:
    torch.manual_seed(0)
    config = TitansConfig(variant="lmm", vocab_size=12, dim=8, num_layers=1, num_heads=1, window_size=8)
    model = TitansLM(config.replace(memory=config.memory.replace(num_heads=1)))
    model.save(tmp_path / "model")
    options = ("--checkpoint", tmp_path / "model", "--tokens", 3, 11, 0, 7, "--out", tmp_path / "word.svg", "--json")
    assert inspect(*options) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["text"] == ["3 ", "11 ", "0 ", "7 "]
    trace = memory_traces(model, torch.tensor([3, 11, 0, 7]))[0].by_head()
    assert found["heads"][0]["theta"] == pytest.approx(trace.theta[:, 0].tolist(), rel=1e-4)
    assert inspect(*options[:-1], "--max-tokens", 2) == 0
    assert "Means over 2 tokens" in capsys.readouterr().out


def test_where_a_picture_cannot_go_is_said_before_the_text_is_read(run: Path, text: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("titans.cli.inspect._inspect", lambda *_: pytest.fail("it was read"))
    assert inspect("--checkpoint", run, "--prompt", "fox", "--out", text / "fox.svg") == 2
    assert "something on the way to it is a file; choose another folder" in capsys.readouterr().err

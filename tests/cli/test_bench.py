import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from titans.bench import model
from titans.bench.contest import Contender, Contest, Work
from titans.cli import bench as module
from titans.cli.main import main
from titans.cli.processors import processors

THREADS = f"each must be from 1 to {processors()}, the processors that there are"


def make_nothing() -> Work:
    return Work(run=lambda: None)


@pytest.fixture(autouse=True)
def contests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two contenders that do nothing in place of the models."""
    contenders = tuple(Contender(name=name, make=make_nothing, tokens=10) for name in ("mac", "attention"))
    contest = Contest(title="a training step", base="mac", contenders=contenders)
    monkeypatch.setattr(model, "contests", partial(_contests, contest))


def _contests(contest: Contest, quick: bool, peers: model.Peers) -> list[Contest]:
    return [contest] if quick else []


def bench(*options: str | Path) -> int:
    return main(["bench", "model", "--quick", "--rounds", "2", *map(str, options)])


def test_a_table_and_files(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "processors", lambda: 2)
    assert bench("--threads", "1", "2", "--out", tmp_path / "found") == 0
    out = capsys.readouterr().out
    assert "a training step, 1 thread" in out
    assert "a training step, 2 threads" in out
    stored = json.loads((tmp_path / "found" / "model.json").read_text())
    assert [outcome["threads"] for outcome in stored["outcomes"]] == [1, 2]
    assert stored["machine"]["processor"]
    ElementTree.parse(tmp_path / "found" / "model.svg")


def test_where_files_cannot_go_is_said_before_anything_is_measured(tmp_path: Path, capsys) -> None:
    (tmp_path / "model.svg").mkdir()
    assert bench("--out", tmp_path) == 2
    assert "model.svg: it is not a regular file; name another" in capsys.readouterr().err
    assert not (tmp_path / "model.json").exists()


def test_an_interruption_loses_only_the_table_being_measured(tmp_path: Path, monkeypatch, capsys) -> None:
    def interrupted() -> Work:
        raise KeyboardInterrupt

    done = model.contests(quick=True, peers=model.no_peers)
    rest = replace(done[0], title="another", contenders=(Contender(name="mac", make=interrupted, tokens=10),))
    monkeypatch.setattr(model, "contests", lambda quick, peers: [*done, rest])
    assert bench("--out", tmp_path) == 130
    stored = json.loads((tmp_path / "model.json").read_text())
    assert [outcome["title"] for outcome in stored["outcomes"]] == ["a training step"]
    capsys.readouterr()


def test_json_on_standard_output_is_readable(capsys) -> None:
    assert bench("--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["subject"] == "model"
    assert [result["name"] for result in found["outcomes"][0]["results"]] == ["mac", "attention"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rounds", "0"], "--rounds is 0; it must be at least 1"),
        (["--threads", "1", "0"], f"--threads is 1 0; {THREADS}"),
        (["--threads", "100000"], f"--threads is 100000; {THREADS}"),
    ],
)
def test_mistakes_are_one_clear_line(options: list[str], message: str, capsys) -> None:
    assert main(["bench", "model", *options]) == 2
    assert capsys.readouterr().err == f"titans: error: {message}\n"


def test_where_nothing_can_be_written_nothing_is_measured(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "file").write_text("here")
    monkeypatch.setattr(model, "contests", lambda **_: pytest.fail("measured"))
    assert bench("--out", tmp_path / "file" / "found") == 2
    assert (
        f"cannot write {tmp_path / 'file' / 'found'}: something on the way to it is a file" in capsys.readouterr().err
    )


def test_an_unknown_subject_names_the_known_ones(capsys) -> None:
    assert main(["bench", "everything"]) == 2
    assert "memory" in capsys.readouterr().err


def test_help_has_an_example_and_needs_no_torch() -> None:
    code = (
        "import sys\nfrom titans.cli.main import main\n"
        "try: main(['bench', '--help'])\n"
        "finally: print('heavy:', {'torch', 'numpy', 'matplotlib'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert "titans bench memory" in done.stdout.partition("Example:")[2]
    assert done.stderr.strip() == "heavy: set()"

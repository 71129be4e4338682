"""Results that grow run by run know every command; what waits is not begun once one has failed."""

import json
import sys
from pathlib import Path

import pytest
from records import Records, in_processes

from titans.cli.findings import machine


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["x", *arguments])


def test_every_command_that_made_a_run_is_kept_and_each_run_has_its_machine(tmp_path, monkeypatch):
    path = tmp_path / "new" / "runs.json"
    called(monkeypatch, "--seeds", "0")
    first = Records(path, "b.py", {"steps": 3})
    first.add({"seed": 0})
    first.add({"seed": 1})
    called(monkeypatch, "--seeds", "2")
    Records(path, "b.py", {"steps": 3})  # which adds nothing
    called(monkeypatch, "--seeds", "3")
    Records(path, "b.py", {"steps": 3}, lambda runs: {"seeds": len(runs)}).add({"seed": 3})
    here = machine().summary
    assert json.loads(path.read_text()) == {
        "commands": ["python benchmarks/b.py --seeds 0", "python benchmarks/b.py --seeds 3"],
        "steps": 3,
        "runs": [{"seed": seed, "machine": here} for seed in (0, 1, 3)],
        "summary": {"seeds": 3},
    }


def test_runs_of_other_settings_do_not_mix(tmp_path):
    Records(tmp_path / "runs.json", "b.py", {"steps": 3}).add({"seed": 0})
    with pytest.raises(SystemExit, match="results of other steps: choose another --out"):
        Records(tmp_path / "runs.json", "b.py", {"steps": 4})


def test_none_is_begun_after_a_failure(tmp_path):
    folders = [tmp_path / str(number) for number in range(8)]
    folders[1].touch()
    with pytest.raises(FileExistsError):
        list(in_processes(Path.mkdir, folders, workers=1))
    assert folders[0].is_dir()
    assert not any(folder.exists() for folder in folders[2:])


def test_each_computes_on_one_thread_and_whoever_waits_hears_that_there_is_nothing_yet():
    jobs = ["{'threads': __import__('torch').get_num_threads()}"] * 2
    found = [*in_processes(eval, jobs, workers=2, every=0.01)]
    assert [one for one in found if one is not None] == [{"threads": 1}] * 2
    assert None in found

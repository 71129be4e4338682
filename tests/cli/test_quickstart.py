import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from titans.cli import comparison, corpus, quickstart
from titans.cli import main as main_module
from titans.cli.comparison import OWN_FILES, Contender, _for_equal_time
from titans.cli.findings import by_distance
from titans.data.text import Document, split_documents
from titans.files import locked
from titans.models.config import TitansConfig
from titans.models.frozen import without_writes
from titans.models.language_model import TitansLM
from titans.models.state import LMState
from titans.report.results import read_results
from titans.training.checkpoint import current, read_settings

TITANS = Path(sys.executable).with_name("titans")
MINUTES = 0.2


def titans(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(TITANS), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A quickstart of a few seconds on texts of its own."""
    folder = tmp_path_factory.mktemp("quickstart")
    (folder / "texts").mkdir()
    for i in range(12):
        (folder / "texts" / f"{i}.txt").write_text(f"chapter {i}: the quick brown fox jumps over the lazy dog. " * 200)
    done = titans("quickstart", "--minutes", MINUTES, "--text", folder / "texts", "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    assert "control, equal" in done.stdout
    assert "titans generate" in done.stdout
    return folder / "run"


def test_results_cover_every_part_and_compare_equals(finished):
    results = read_results(finished)
    titans_, control = results.models["titans"], results.models["control"]
    assert abs(titans_.parameters - control.parameters) < 0.002 * titans_.parameters
    assert titans_.train_tokens == control.train_tokens
    assert results.models["control_equal_time"].train_tokens >= control.train_tokens
    assert results.distance is not None
    assert set(results.distance.series) == {"memory on", "memory frozen", "control", "control, equal time"}
    assert results.recall is not None
    assert set(results.recall.accuracy) == {"titans", "control"}
    assert results.stream is not None
    assert results.stream.points[-1].tokens > 10_000
    assert "<svg" in (finished / "report.html").read_text()


@pytest.fixture(scope="module")
def split(finished) -> tuple[list[Document], list[Document]]:
    """What it was to train on, and what it was to hold out."""
    return split_documents(corpus.documents(str(finished.parent / "texts"), spool=finished), seed=0)


def test_what_is_held_out_is_not_trained_on(finished, split, tmp_path):
    run = current(finished / "control")
    trained = TitansLM.load(run)
    again = comparison._train(
        Contender("control", trained.config, read_settings(run).steps), *split, seed=0, out=tmp_path / "again"
    )
    for name, parameter in TitansLM.load(again.checkpoint).named_parameters():
        torch.testing.assert_close(parameter, trained.get_parameter(name), rtol=0, atol=1e-4)


def test_every_column_is_of_its_model_in_the_text_held_out(finished, split):
    results = read_results(finished)
    models = {name: TitansLM.load(current(finished / name)) for name in ("titans", "control", "control_equal_time")}
    columns = {
        "memory on": models["titans"],
        "memory frozen": without_writes(models["titans"]),
        "control": models["control"],
        "control, equal time": models["control_equal_time"],
    }
    measured = {name: comparison._by_distance(model, split[1], MINUTES / 8, name) for name, model in columns.items()}
    again = by_distance(measured)
    assert results.distance is not None
    assert results.distance.bytes == again.bytes
    for name, column in again.series.items():
        assert results.distance.series[name] == pytest.approx(column, abs=1e-6)
    assert len({tuple(column) for column in again.series.values()}) == 4  # a wrong one would be seen


@pytest.mark.parametrize(
    ("titans_seconds", "steps"),
    [(20.0, 200), (5.0, 100), (None, 7)],
    ids=["half as fast", "faster than the control", "nothing known yet"],
)
def test_equal_time_is_by_how_fast_both_have_been(tmp_path, titans_seconds, steps):
    """However long a step took before they began."""
    after = {"titans": (50 * 2048, titans_seconds), "control": (100 * 2048, 20.0)}
    for name, (tokens, seconds) in after.items():
        if seconds is not None:
            (tmp_path / name).mkdir()
            line = {"tokens": tokens, "seconds": seconds, "bits_per_token": 2.0}
            (tmp_path / name / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    planned = Contender("control, equal time", TitansConfig(), steps=7)
    assert _for_equal_time(planned, tmp_path) == replace(planned, steps=steps)


def test_model_and_memory_can_be_used_further(finished):
    model = TitansLM.load(finished / "model")
    state = LMState.load(finished / "memory.safetensors", model)
    assert state.rows == 1
    done = titans(
        "generate", "--checkpoint", finished / "model", "--state", finished / "memory.safetensors", "--prompt", "the ",
        "--max-new-tokens", 5,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_results_stay_though_nobody_reads_the_closing_table(tmp_path, monkeypatch):
    def compare(text, out, *_, as_json):
        for name in (*OWN_FILES[:2], "report.html"):
            (out / name).mkdir()
        raise BrokenPipeError

    monkeypatch.setattr(comparison, "compare", compare)
    monkeypatch.setattr(main_module, "_leave_standard_output", lambda: None)
    assert main_module.main(["quickstart", "--out", str(tmp_path / "run")]) == 141
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["control", "report.html", "titans"]


def test_a_folder_in_use_is_left_alone(finished):
    before = (finished / "results.json").read_bytes()
    done = titans("quickstart", "--out", finished)
    assert done.returncode == 2
    assert "already exists" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert (finished / "results.json").read_bytes() == before


def test_a_folder_is_used_by_one_at_a_time(tmp_path, capsys):
    with locked(tmp_path / "run"):
        assert main_module.main(["quickstart", "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.startswith(f"titans: error: {tmp_path}/run is being used by another process: name")


def test_a_folder_that_has_been_used_meanwhile_is_left_alone(tmp_path, monkeypatch, capsys):
    result = tmp_path / "run" / "results.json"

    def slowly():
        result.parent.mkdir()
        result.touch()

    monkeypatch.setattr(quickstart, "import_torch", slowly)
    assert main_module.main(["quickstart", "--out", str(tmp_path / "run")]) == 2
    assert "already exists" in capsys.readouterr().err
    assert result.exists()


def test_ctrl_c_ends_the_trainings_and_leaves_nothing(tmp_path):
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 500)
    out = tmp_path / "run"
    command = [str(TITANS), "quickstart", "--minutes", "5", "--text", str(tmp_path / "text.txt"), "--out", str(out)]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not (out / "titans" / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(running.pid, signal.SIGINT)
        error = running.communicate(timeout=60)[1]  # waits until every process has closed its standard error
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 130
    assert error.splitlines()[-1] == "titans: interrupted"
    assert "Traceback" not in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--minutes", "0"), "--minutes is 0"),
        (("--seed", "-1"), "--seed is -1"),
        (("--text", "no/such/file"), "no/such/file"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, arguments, message):
    done = titans("quickstart", "--out", tmp_path / "run", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()

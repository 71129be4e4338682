import gzip
import io
import json
import os
import signal
import threading
from pathlib import Path

import pytest
import torch

from titans.cli.main import main
from titans.data.batches import DocumentBatches
from titans.files import locked
from titans.models import presets
from titans.models.language_model import TitansLM
from titans.training import loop


def weights(run: Path) -> list[torch.Tensor]:
    return list(TitansLM.load(run / "checkpoint").state_dict().values())


@pytest.fixture
def ctrl_c_in_step(monkeypatch: pytest.MonkeyPatch):
    """Presses Ctrl-C while a run reads its n-th batch."""
    original = DocumentBatches.next

    def arrange(step: int) -> None:
        left = step

        def pressed(self: DocumentBatches):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGINT)
            return original(self)

        monkeypatch.setattr(DocumentBatches, "next", pressed)

    return arrange


def test_a_run_leaves_a_model_and_its_metrics(tmp_path: Path, text: Path, train, capsys) -> None:
    assert train("run", "--text", text, "--variant", "lmm") == 0
    out = capsys.readouterr().out
    assert out.startswith("6 steps, 192 tokens")
    assert "bits per byte on held-out text" in out
    assert TitansLM.load(tmp_path / "run" / "checkpoint").config.variant == "lmm"
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 3, 4, 5, 6, 6]


def test_what_is_held_out_changes_nothing_in_the_model(tmp_path: Path, book: Path, train) -> None:
    """The last tenth of a single file."""
    words = book.read_text()
    trained = {}
    for name, changed in (("as it is", slice(0, 0)), ("end", slice(-1500, None)), ("rest", slice(None, -3000))):
        start, stop, _ = changed.indices(len(words))
        book.write_text(words[:start] + words[start:stop].upper() + words[stop:])
        assert train(name, "--text", book, "--length", "64", "--batch-size", "8", "--steps", "50") == 0  # all of it
        trained[name] = torch.cat([tensor.flatten() for tensor in weights(tmp_path / name)])
    assert torch.equal(trained["end"], trained["as it is"])
    assert not torch.allclose(trained["rest"], trained["as it is"], atol=1e-3)


def test_every_preset_reads_bytes(tmp_path: Path, text: Path, train, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}
    small = presets.preset
    monkeypatch.setattr(
        presets, "preset", lambda name, **overrides: asked.update(overrides) or small(name, **overrides)
    )
    assert train("run", "--text", text, "--preset", "170m") == 0
    assert asked == {"vocab_size": 256}


def test_json_is_all_there_is_on_standard_output(tmp_path: Path, text: Path, train, capsys) -> None:
    assert train("run", "--text", text, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["steps"] == 6
    assert result["validation"]["bits_per_token"] > 0
    assert result["checkpoint"] == str(tmp_path / "run" / "checkpoint")


def test_ctrl_c_is_one_line_and_the_run_goes_on(tmp_path: Path, text: Path, train, ctrl_c_in_step, capsys) -> None:
    assert train("straight", "--text", text) == 0
    ctrl_c_in_step(2)
    assert train("stopped here", "--text", text) == 130
    run = tmp_path / "stopped here"
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert last_line == (
        f"titans: interrupted; checkpoint saved at {run}/checkpoint; continue with: titans train --resume '{run}'"
    )
    assert main(["train", "--resume", str(run)]) == 0
    for one, two in zip(weights(tmp_path / "straight"), weights(run), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(("save_every", "kept"), [("4", False), ("1", True)])
def test_a_run_that_diverges_says_so_and_leaves_a_checkpoint_or_nothing(
    tmp_path: Path, text: Path, train, capsys, save_every: str, kept: bool
) -> None:
    assert train("run", "--text", text, "--learning-rate", "1e30", "--save-every", save_every) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("titans")]
    assert len(lines) == 1
    assert "training diverged at step 2" in lines[0]
    assert (tmp_path / "run").exists() == (tmp_path / "run" / "checkpoint").exists() == kept


def test_standard_input_is_kept_for_the_resume(
    tmp_path: Path, text: Path, train, ctrl_c_in_step, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.read_bytes())))
    ctrl_c_in_step(2)
    assert train("run", "--text", "-") == 130
    monkeypatch.setattr("sys.stdin", None)
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("kind", ["pipe", "gz"])
def test_a_text_that_was_copied_may_be_gone_by_the_resume(
    tmp_path: Path, text: Path, train, ctrl_c_in_step, capsys, kind: str
) -> None:
    source = tmp_path / f"source.{kind}"
    if kind == "gz":
        source.write_bytes(gzip.compress(text.read_bytes()))
    else:
        os.mkfifo(source)
        threading.Thread(target=source.write_bytes, args=[text.read_bytes()], daemon=True).start()
    ctrl_c_in_step(2)
    assert train("run", "--text", source) == 130
    source.unlink()
    run = str(tmp_path / "run")
    assert main(["train", "--resume", run]) == 0
    assert main(["eval", "--checkpoint", run, "--json"]) == 0


def test_a_bad_byte_is_told_before_the_training_wherever_it_is(tmp_path: Path, train, capsys) -> None:
    late = tmp_path / "late.txt"
    late.write_bytes(b"fox " * 300_000 + b"caf\xe9")
    assert train("run", "--text", late) == 2
    assert "late.txt is not UTF-8 at offset 1200003" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path: Path, text: Path, train, capsys) -> None:
    assert train("run", "--text", text) == 0
    for name, options in (("run", ["--resume", str(tmp_path / "run")]), ("new", None)):
        with locked(tmp_path / name):
            assert (train(name, "--text", text) if options is None else main(["train", *options])) == 2
        assert f"{name} is being trained by another process" in capsys.readouterr().err


def test_the_text_may_be_named_relative_to_where_the_run_began(
    tmp_path: Path, text: Path, train, ctrl_c_in_step, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ctrl_c_in_step(2)
    assert train("run", "--text", text.name) == 130
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0


def test_a_run_is_not_overwritten_nor_is_its_text(
    tmp_path: Path, text: Path, train, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.read_bytes())))
    assert train("run", "--text", "-") == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"another text")))
    assert train("run", "--text", "-") == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (tmp_path / "run" / "text.txt").read_bytes() == text.read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--out is missing"),
        (["--resume", "{run}", "--steps", "9"], "leave the other options out"),
        (["--resume", "{run}"], "does not exist"),
        (["--out", "{run}", "--text", "nowhere.txt"], "nowhere.txt does not exist"),
        (["--out", "{run}", "--text", "{folder}"], "which would change with it: name a folder outside"),
        (["--out", "{run}", "--recipe", "needles", "--text", "{folder}"], "lies in the text"),
        (["--out", "{run}", "--text", ""], "--text is empty: give it a value"),
        (["--out="], "--out is empty: give it a value"),
        (["--out", "{run}", "--clip-norm", "inf"], "--clip-norm should be a finite number, not inf"),
        (["--out", "{run}", "--batch-size", "9999999"], "--batch-size is 9999999; it must be so small"),
        (["--out", "{run}", "--text", "-"], "standard input is empty"),
        (["--out", "{run}", "--text", "{short}"], "the text has 2 bytes, too few"),
        (["--out", "{run}", "--learning-rate", "-1"], "--learning-rate is -1.0; it must be above 0"),
        (["--out", "{run}", "--recipe", "copying", "--length", "9"], "--length is 9; it must be at least "),
        (["--out", "{run}", "--recipe", "parity", "--baseline", "hybrid"], "this model has one block"),
        (["--out", "{run}", "--recipe", "parity", "--warmup-steps", "501"], "--warmup-steps is 501; it must"),
        (["--out", "{run}", "--steps", "9", "--penalty-warmup-steps", "10"], "--penalty-warmup-steps is 10; it must"),
    ],
)
def test_mistakes_are_one_clear_line_and_leave_nothing(
    tmp_path: Path, train, options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    (tmp_path / "short").write_text("ab")
    places = {"run": tmp_path / "run", "short": tmp_path / "short", "folder": tmp_path}
    assert main(["train", *(option.format(**places) for option in options)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("titans: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_changed_text_is_noticed_on_resume(tmp_path: Path, text: Path, train, ctrl_c_in_step, capsys) -> None:
    ctrl_c_in_step(2)
    assert train("run", "--text", text) == 130
    read = text.read_text()
    for other in ("shorter text\n" * 10, read.replace("fox", "cat")):
        text.write_text(other)
        assert main(["train", "--resume", str(tmp_path / "run")]) == 2
        assert "text.txt has changed since" in capsys.readouterr().err
    text.write_text(read)
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("text_of_run", [5, ""])
def test_a_damaged_note_of_the_text_is_one_clear_line(tmp_path: Path, text: Path, train, text_of_run, capsys) -> None:
    assert train("run", "--text", text) == 0
    (tmp_path / "run" / "run.json").write_text(json.dumps({"text": text_of_run}))
    assert main(["train", "--resume", str(tmp_path / "run")]) == 2
    assert 'run.json is damaged: its "text" names no file' in capsys.readouterr().err
    (tmp_path / "run" / "run.json").write_text(json.dumps({"text": str(text), "recipe": ["needles"]}))
    assert main(["train", "--resume", str(tmp_path / "run")]) == 2
    assert 'run.json is damaged: its "recipe" is no name' in capsys.readouterr().err


def test_a_damaged_place_in_the_text_is_one_clear_line(tmp_path: Path, text: Path, train, capsys) -> None:
    assert train("run", "--text", text) == 0
    path = tmp_path / "run" / "checkpoint" / "training.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cursor": {}}))
    assert main(["train", "--resume", str(tmp_path / "run")]) == 2
    assert "training.json is damaged" in capsys.readouterr().err


def test_an_unknown_key_in_a_checkpoint_is_one_clear_line(tmp_path: Path, text: Path, train, capsys) -> None:
    assert train("run", "--text", text) == 0
    path = tmp_path / "run" / "checkpoint" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"colour": "blue"}))
    assert main(["train", "--resume", str(tmp_path / "run")]) == 2
    assert "colour" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tokenizer.json", "metrics.jsonl", "run.json", "notes.txt"])
def test_a_folder_with_anything_in_it_is_left_as_it_is(tmp_path: Path, text: Path, train, name: str, capsys) -> None:
    own = tmp_path / "run" / name
    own.parent.mkdir()
    own.write_text("mine")
    assert train("run", "--text", text) == 2
    assert "run already exists; name another folder with --out, or remove it" in capsys.readouterr().err
    assert [path.name for path in own.parent.iterdir()] == [name]
    assert own.read_text() == "mine"


def test_a_second_ctrl_c_says_which_checkpoint_there_is(
    tmp_path: Path, text: Path, train, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    save = loop.save_checkpoint

    def interrupted(*arguments) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    run = tmp_path / "run"
    monkeypatch.setattr(loop, "save_checkpoint", interrupted)
    assert train("run", "--text", text) == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"titans: interrupted; the last checkpoint is {run}/checkpoint; continue with: titans train --resume {run}"
    )

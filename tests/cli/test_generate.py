import errno
import io
import json
import os
import sys
from pathlib import Path

import pytest
import torch

from titans.baselines import BaselineConfig, BaselineLM
from titans.cli import generate as module
from titans.cli import main as main_module
from titans.cli.main import main
from titans.models.config import TitansConfig
from titans.models.language_model import TitansLM
from titans.models.state import LMState


@pytest.fixture
def run(tmp_path: Path, text: Path, train, capsys) -> Path:
    assert train("run", "--text", text) == 0
    capsys.readouterr()
    return tmp_path / "run"


def generate(*arguments: str | Path) -> int:
    return main(["generate", *map(str, arguments)])


def type_in(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_the_same_seed_writes_the_same_text(run: Path, capsys) -> None:
    written = []
    for seed in ("1", "1", "2"):
        options = ("--checkpoint", run, "--prompt", "the ", "--max-new-tokens", "30", "--seed", seed)
        assert generate(*options) == 0
        written.append(capsys.readouterr().out)
    assert written[0] == written[1] != written[2]


def test_json_holds_the_same_text(run: Path, tmp_path: Path, capsys) -> None:
    options = ("--checkpoint", run, "--prompt", "the ", "--max-new-tokens", "30")
    assert generate(*options) == 0
    written = capsys.readouterr().out.removesuffix("\n")
    assert generate(*options, "--json", "--save-state", tmp_path / "memory") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"text": written, "bytes": 30, "state": str(tmp_path / "memory")}


def test_a_prompt_and_standard_input_are_the_same(run: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    options = ("--checkpoint", run, "--max-new-tokens", "20", "--temperature", "0")
    assert generate(*options, "--prompt", "the lazy dög") == 0
    prompted = capsys.readouterr().out
    monkeypatch.setattr(module, "_BLOCK_BYTES", 5)
    type_in(monkeypatch, "the lazy dög".encode())
    assert generate(*options) == 0
    assert capsys.readouterr().out == prompted


def greedy(model: TitansLM, state: LMState | None, prompt: str, count: int) -> str:
    """What the model writes on, one likeliest byte at a time."""
    tokens, written = list(prompt.encode()), []
    for _ in range(count):
        with torch.no_grad():
            logits, state = model(torch.tensor([tokens]), state)
        tokens = [int(logits[0, -1].argmax())]
        written += tokens
    return bytes(written).decode(errors="replace")


def test_a_saved_memory_has_read_the_prompt_and_what_was_written(run: Path, tmp_path: Path, capsys) -> None:
    options = ("--checkpoint", run, "--max-new-tokens", "6", "--temperature", "0")
    memory = tmp_path / "fox.memory"
    assert generate(*options, "--prompt", "the quick brown fox", "--save-state", memory) == 0
    model = TitansLM.load(run / "checkpoint")
    state = LMState.load(memory, model)
    assert state.position.tolist() == [len("the quick brown fox") + 6]

    capsys.readouterr()
    assert generate(*options, "--prompt", " jumps", "--state", memory) == 0
    assert capsys.readouterr().out == greedy(model, state, " jumps", 6) + "\n"
    tokens = torch.tensor([list(b" jumps")])
    assert not torch.allclose(model(tokens, state)[0], model(tokens)[0])


def test_the_memory_is_saved_though_the_reader_of_the_text_has_left(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Left(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    options = ("--checkpoint", run, "--prompt", "fox", "--max-new-tokens", "6", "--save-state", tmp_path / "memory")
    monkeypatch.setattr(main_module, "_leave_standard_output", lambda: None)
    monkeypatch.setattr("sys.stdout", Left())
    assert generate(*options) == 141
    assert LMState.load(tmp_path / "memory", TitansLM.load(run / "checkpoint")).position.tolist() == [9]
    assert generate(*options[:-2]) == 141


def test_the_text_is_not_lost_with_a_memory_that_cannot_be_saved(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    options = ("--checkpoint", run, "--prompt", "the ", "--max-new-tokens", "30")
    assert generate(*options) == 0
    written = capsys.readouterr().out
    monkeypatch.setattr(LMState, "save", full)
    monkeypatch.setattr(main_module, "_leave_standard_output", lambda: None)
    assert generate(*options, "--save-state", tmp_path / "memory") == 2
    assert capsys.readouterr().out == written
    assert generate(*options, "--save-state", tmp_path / "memory", "--json") == 2
    heard = capsys.readouterr()
    assert json.loads(heard.out) == {"text": written.removesuffix("\n"), "bytes": 30, "state": None}
    assert heard.err.startswith("titans: error: disk full")


def test_characters_of_several_bytes_appear_whole(run: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from titans.models import generation

    def speak(model, prompts, *, on_token, **options):
        for byte in "dög".encode():
            on_token(torch.tensor([byte]))
        return [torch.tensor(list("dög".encode()))], None

    monkeypatch.setattr(generation, "generate", speak)
    assert generate("--checkpoint", run, "--prompt", "x") == 0
    assert capsys.readouterr().out == "dög\n"


def test_a_foreign_memory_is_refused(run: Path, tmp_path: Path, text: Path, train, capsys) -> None:
    memory = tmp_path / "fox.memory"
    assert generate("--checkpoint", run, "--prompt", "x", "--max-new-tokens", "1", "--save-state", memory) == 0
    assert train("other", "--text", text, "--seed", "1") == 0
    capsys.readouterr()
    assert generate("--checkpoint", tmp_path / "other", "--prompt", "x", "--state", memory) == 2
    error = capsys.readouterr().err
    assert (
        error == f"titans: error: {memory} belongs to a model with other weights; load it with the model that made it\n"
    )


def test_a_model_of_more_than_bytes_is_refused(tmp_path: Path, capsys) -> None:
    config = TitansConfig(variant="attention", vocab_size=300, dim=8, num_layers=1, num_heads=1, window_size=8)
    TitansLM(config).save(tmp_path / "model")
    assert generate("--checkpoint", tmp_path / "model", "--prompt", "x") == 2
    assert "has 300 token ids, not the 256 bytes" in capsys.readouterr().err


def test_a_baseline_is_refused(tmp_path: Path, capsys) -> None:
    BaselineLM(BaselineConfig(name="llama", dim=8, num_layers=1, num_heads=1)).save(tmp_path / "model")
    assert main(["generate", "--checkpoint", str(tmp_path / "model"), "--prompt", "x"]) == 2
    assert "holds the baseline llama, which this does not write with" in capsys.readouterr().err


def test_a_memory_of_several_texts_is_refused(run: Path, capsys) -> None:
    state = run / "checkpoint" / "state.safetensors"
    assert generate("--checkpoint", run, "--prompt", "x", "--state", state) == 2
    assert "holds 2 texts side by side" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "x", "--save-state", "."], "cannot write .: it is not a regular file; name another"),
        (["--prompt", "x", "--seed", "-1"], "--seed is -1; it must be"),
        (["--prompt", "x", "--temperature", "1e-300"], "--temperature is 1e-300; it must be"),
        (["--prompt", ""], "--prompt is empty"),
        (["--prompt", "x", "--state", "nowhere.memory"], "nowhere.memory does not exist"),
        (["--prompt", "x", "--temperature", "-1"], "--temperature is -1.0"),
    ],
)
def test_mistakes_are_one_clear_line(run: Path, options: list[str], message: str, capsys) -> None:
    assert generate("--checkpoint", run, *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("titans: error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--top-p", "0"], "--top-p is 0.0"),
        (["--max-new-tokens", "0"], "--max-new-tokens is 0"),
        (["--save-state", "{file}/x.memory"], "cannot write"),
        (["--save-state", os.devnull], "cannot write /dev/null: it is not a regular file"),
    ],
)
def test_mistakes_are_told_before_a_long_text_is_read(
    run: Path, text: Path, options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    class Unread(io.BytesIO):
        def read(self, *_) -> bytes:
            raise AssertionError("it was read")

        def read1(self, *_) -> bytes:
            raise AssertionError("it was read")

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(Unread()))
    assert generate("--checkpoint", run, *(option.format(file=text) for option in options)) == 2
    assert message in capsys.readouterr().err


def test_an_empty_standard_input_is_told_so(run: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    type_in(monkeypatch, b"")
    assert generate("--checkpoint", run) == 2
    assert "the prompt is empty" in capsys.readouterr().err


def test_a_terminal_without_a_prompt_is_told_so(run: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    type_in(monkeypatch, b"")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert generate("--checkpoint", run) == 2
    assert "--prompt is missing" in capsys.readouterr().err


def test_every_setting_of_a_draw_is_passed_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from titans.models import generation

    given = []
    monkeypatch.setattr(
        generation, "generate", lambda *_, **options: given.append(options) or ([torch.tensor([1])], None)
    )
    options = ("--max-new-tokens", "7", "--temperature", "0.5", "--top-k", "3", "--top-p", "0.25", "--seed", "9")
    assert generate("--checkpoint", run, "--prompt", "x", *options, "--stop", "the", "a") == 0
    (found,) = given
    expected = {"max_new_tokens": 7, "temperature": 0.5, "top_k": 3, "top_p": 0.25, "seed": 9}
    assert {name: found[name] for name in expected} == expected
    assert [bytes(stop.tolist()) for stop in found["stop"]] == [b"the", b"a"]

"""Trainings by a recipe from the command line: begin, go on."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from titans.baselines import BaselineLM, load_model
from titans.cli.main import main
from titans.data.pieces import PieceTokenizer, learn_pieces, text_of, tokenizer_of
from titans.models.config import TitansConfig
from titans.models.language_model import TitansLM
from titans.report.results import read_results
from titans.tasks.catalogue import TASKS
from titans.tasks.recipes import RECIPES, recipe

QUICK = ("--recipe", "needles", "--steps", "3", "--batch-size", "1", "--length", "256", "--save-every", "1")


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def weights(folder: Path) -> list[torch.Tensor]:
    return list(load_model(folder).state_dict().values())


def test_a_recipe_is_trained_and_gone_on_with(tmp_path, book, capsys, monkeypatch):
    assert run("train", *QUICK, "--text", book, "--out", tmp_path / "whole") == 0
    assert json.loads((tmp_path / "whole" / "run.json").read_text())["recipe"] == "needles"
    original, calls = TitansLM.loss, []

    def breaks(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("power cut")
        return original(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(TitansLM, "loss", breaks)
        assert run("train", *QUICK, "--text", book, "--out", tmp_path / "cut") == 1
    assert run("train", "--resume", tmp_path / "cut") == 0
    for one, two in zip(weights(tmp_path / "whole"), weights(tmp_path / "cut"), strict=True):
        assert torch.equal(one, two)
    capsys.readouterr()


def test_a_recipe_hides_nothing_in_what_is_held_out(tmp_path, book, monkeypatch):
    """The last tenth of a single file."""
    needles, read = recipe("needles"), []

    def source(documents, settings, tokenizer):
        read.append([document for document in documents if document.name == book.name])
        return needles.source(documents, settings, tokenizer)

    monkeypatch.setitem(RECIPES, "needles", replace(needles, source=source))
    assert run("train", *QUICK, "--text", book, "--out", tmp_path / "run") == 0
    words = book.read_text()
    ((document,),) = [documents for documents in read if documents]
    assert text_of(document) == words[: len(document)]
    assert len(document) == pytest.approx(0.9 * len(words), abs=1)


def test_settings_from_the_command_line_come_before_the_recipes(tmp_path, book, capsys):
    assert run("train", *QUICK, "--text", book, "--out", tmp_path / "run", "--variant", "lmm", "--seed", 3) == 0
    settings = json.loads((tmp_path / "run" / "checkpoint" / "training.json").read_text())["config"]
    assert (settings["steps"], settings["seed"], settings["learning_rate"]) == (3, 3, 2e-3)
    assert settings["warmup_steps"] == 3  # the recipe's 100 would be longer than the run
    assert load_model(tmp_path / "run").config.variant == "lmm"
    # Also those that would be the same without a recipe, whose own settings are others.
    like_the_defaults = ("--recipe", "parity", "--learning-rate", "0.001", "--gate-penalty=0", "--batch_size", 8)
    assert run("train", *like_the_defaults, "--steps", 2, "--out", tmp_path / "other") == 0
    settings = json.loads((tmp_path / "other" / "checkpoint" / "training.json").read_text())["config"]
    assert (settings["learning_rate"], settings["gate_penalty"], settings["batch_size"]) == (1e-3, 0, 8)
    assert run("train", "--resume", tmp_path / "other", "--batch-size", 8) == 2
    assert "--resume takes the text and every setting from the run" in capsys.readouterr().err


def test_a_recipe_without_text_looks_for_none(tmp_path, book, capsys, monkeypatch):
    monkeypatch.setattr("titans.cli.corpus.documents", lambda *_, **__: pytest.fail("looked for text"))
    options = ("--recipe", "S3", "--batch-size", 2, "--length", 16)
    assert run("train", *options, "--steps", 2, "--out", tmp_path / "run") == 0
    assert run("train", "--resume", tmp_path / "run") == 0
    ask = ("eval", "state-tracking", "--checkpoint", tmp_path / "run", "--length", 8, "--samples", 3)
    capsys.readouterr()
    for chosen in ((), ("--problem", "S3"), ("--problem", "S3", "--tokens-each", 2)):
        assert run(*ask, *chosen, "--save", tmp_path / "scores") == 0
    assert [score.task for score in read_results(tmp_path / "scores").scores] == ["state-tracking S3, 2 tokens each"]
    assert run(*ask, "--problem", "parity", "--tokens-each", 6) == 2  # as many tokens
    learned = f"{tmp_path / 'run'} has learned its task with --problem S3 --tokens-each 2: leave --problem out"
    assert learned in capsys.readouterr().err
    assert run("train", *options, "--text", book, "--out", tmp_path / "other") == 2
    assert "the recipe 'S3' reads no text: leave --text out" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "blocks"), [("llama-swa", 2), ("gated-delta", 2), ("mamba2", 4)])
def test_a_baseline_in_the_place_of_ours(name, blocks, tmp_path, book, capsys):
    assert run("train", *QUICK, "--text", book, "--out", tmp_path / "run", "--baseline", name) == 0
    model, ours = load_model(tmp_path / "run"), TitansLM(recipe("needles").config)
    assert isinstance(model, BaselineLM)
    assert model.config.num_layers == blocks  # the Mambas' have no SwiGLU, two of them stand for one
    assert abs(model.num_parameters - ours.num_parameters) < 0.05 * ours.num_parameters
    assert run("eval", "needles", "--checkpoint", tmp_path / "run", "--length", 400, "--samples", 1) == 0
    assert run("train", "--resume", tmp_path / "run") == 0
    capsys.readouterr()


def test_the_control_is_as_large_as_ours(tmp_path, book, capsys):
    assert run("train", *QUICK, "--text", book, "--out", tmp_path / "run", "--variant", "attention") == 0
    control, ours = load_model(tmp_path / "run"), TitansLM(recipe("needles").config)
    assert control.config.replace(hidden_size=None) == ours.config.replace(variant="attention")
    assert abs(control.num_parameters - ours.num_parameters) < 0.05 * ours.num_parameters
    capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--recipe", "cake"), "there is no recipe 'cake'; choose one of needles"),
        (("--variant", "mad"), "there is no variant 'mad'; choose one of mac, mag, mal, lmm, attention"),
        (("--recipe", "needles", "--baseline", "mamba3"), "there is no baseline 'mamba3'; choose one of llama"),
        (("--baseline", "llama"), "--baseline goes with --recipe and without --variant"),
        (("--recipe", "needles", "--baseline", "llama", "--variant", "mac"), "--baseline goes with --recipe"),
    ],
)
def test_wrong_options_of_a_training(options, words, tmp_path, book, capsys):
    assert run("train", "--out", tmp_path / "run", "--text", book, *options) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_recipe_is_not_gone_on_with_in_another_text(tmp_path, book, capsys):
    assert run("train", *QUICK, "--text", book, "--out", tmp_path / "run") == 0
    book.write_text("and".join(book.read_text().rsplit("the", 1)))
    assert run("train", "--resume", tmp_path / "run") == 2
    assert "book.txt or Python's standard library has changed since" in capsys.readouterr().err


def test_a_recipe_that_teaches_otherwise_by_now_is_not_gone_on_with(tmp_path, book, capsys, monkeypatch):
    assert run("train", *QUICK, "--text", book, "--out", tmp_path / "run") == 0
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setitem(RECIPES, "needles", replace(recipe("needles"), source=recipe("copying").source))
        assert run("train", "--resume", tmp_path / "run") == 2
        assert "was begun when its recipe for needles taught otherwise" in capsys.readouterr().err
    assert run("train", "--resume", tmp_path / "run") == 0
    capsys.readouterr()


def test_every_recipe_learns_a_task_that_can_be_asked():
    assert {recipe.task for recipe in RECIPES.values()} <= set(TASKS)


@pytest.fixture
def many_words(tmp_path) -> Path:
    path, random = tmp_path / "words.txt", np.random.default_rng(0)
    words = ["".join(random.choice(list("abcdefgh"), 6)) for _ in range(3000)]
    path.write_text(" ".join(words * 2))
    return path


def test_a_recipe_whose_model_reads_pieces(tmp_path, stories, many_words, capsys, monkeypatch):
    options = ("--recipe", "babilong", "--text", many_words, "--batch-size", 1, "--length", 32, "--save-every", 1)
    assert run("train", *options, "--steps", 2, "--out", tmp_path / "run") == 0
    checkpoint = tmp_path / "run" / "checkpoint"
    tokenizer = tokenizer_of(checkpoint)
    assert isinstance(tokenizer, PieceTokenizer)
    assert tokenizer.vocab_size == load_model(checkpoint).config.vocab_size == 2048
    assert len(tokenizer.encode(" bathroom")) == 1  # bAbI's own words are pieces
    assert run("train", "--resume", tmp_path / "run") == 0
    asked_with, original = [], TASKS["babilong"]
    monkeypatch.setitem(TASKS, "babilong", lambda choices: asked_with.append(choices) or original(choices))
    for folder in (tmp_path / "run", checkpoint):
        asked = ("--checkpoint", folder, "--haystack", many_words, "--samples", 2, "--length")
        assert run("eval", "babilong", *asked, 64) == 0
        assert run("eval", "needles", *asked, 400) == 0
        (haystack,) = asked_with[-1].haystack
        assert tokenizer.decode(haystack.tokens(0, len(haystack))) == many_words.read_text()
    capsys.readouterr()
    looked = ("inspect", "--checkpoint", checkpoint, "--prompt", "a bathroom", "--json", "--out", tmp_path / "a.svg")
    assert run(*looked) == 0
    assert json.loads(capsys.readouterr().out)["text"] == ["a", " bathroom"]
    for verb in (("generate", "--prompt", "a"), ("eval", "--text", many_words)):
        assert run(verb[0], "--checkpoint", checkpoint, *verb[1:]) == 2
        assert "reads 2,048 pieces of words, not the 256 bytes" in capsys.readouterr().err
    assert run("eval", "mqar", "--vocab-size", 2048, "--length", 64, "--checkpoint", checkpoint) == 2
    assert "the task 'mqar' has tokens of its own" in capsys.readouterr().err

    learn_pieces([many_words.read_text().replace("a", "z")], 2048).save(checkpoint)
    assert run("eval", "babilong", *asked, 64) == 2
    assert "tokenizer.json is not the one that its model was trained with" in capsys.readouterr().err
    assert run("train", "--resume", tmp_path / "run") == 2
    assert "tokenizer.json is not the one that its model was trained with" in capsys.readouterr().err
    (checkpoint / "tokenizer.json").unlink()
    assert run("eval", "babilong", *asked, 64) == 2
    assert "tokenizer.json is missing" in capsys.readouterr().err
    tokenizer.save(checkpoint)
    assert run("eval", "babilong", *asked, 64) == 0

    TitansLM(TitansConfig(dim=16, num_layers=1, num_heads=2)).save(checkpoint)
    assert run("generate", "--checkpoint", checkpoint, "--prompt", "a") == 2
    assert "reads 256 pieces of words, not the 256 bytes" in capsys.readouterr().err
    for name in ("tokenizer.json", "training.json"):  # a model that was saved by itself
        (checkpoint / name).unlink()
    TitansLM(TitansConfig(dim=16, num_layers=1, num_heads=2, vocab_size=2048)).save(checkpoint)
    assert run("eval", "babilong", "--checkpoint", checkpoint, "--haystack", many_words, "--length", 64) == 2
    assert "has 256 tokens and the model knows 2048" in capsys.readouterr().err

"""The script behind the tables of tasks: what it runs, keeps and leaves out."""

import sys
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import long_context
import pytest
from long_context import LABELS, QUESTIONS, Question
from long_context_page import STYLES

from titans.baselines.config import NAMES
from titans.cli.main import main
from titans.models.config import VARIANTS
from titans.report.results import read_results, write_results
from titans.tasks.catalogue import TASKS
from titans.tasks.recipes import RECIPES

PARITY = Question("state-tracking --problem parity", (8, 16), samples=2)


class AtOnce:
    """An executor that does each thing when it is told, in this thread, where a Ctrl-C is heard."""

    def __init__(self, _workers: int) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        pass

    def shutdown(self, *, wait: bool, cancel_futures: bool) -> None:
        assert not wait
        assert cancel_futures

    def submit(self, work, *arguments) -> Future:
        future = Future()
        try:
            future.set_result(work(*arguments))
        except SystemExit as error:
            future.set_exception(error)
        return future


@pytest.fixture
def ran(monkeypatch) -> list[str]:
    """The commands that were run, here and not in processes of their own, and with few steps."""
    commands, parity = [], RECIPES["parity"]
    few = replace(parity.settings.for_steps(2), batch_size=2)

    def execute(command, log, _threads):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("much\nand at last why\n")
        commands.append(" ".join(command[1:]))
        monkeypatch.setattr(sys, "argv", [str(part) for part in command])
        return main(command[1:])

    monkeypatch.setattr("long_context.execute", execute)
    monkeypatch.setattr("long_context.ThreadPoolExecutor", AtOnce)
    monkeypatch.setitem(QUESTIONS, "parity", (PARITY,))
    monkeypatch.setitem(RECIPES, "parity", replace(parity, settings=few))
    return commands


@pytest.fixture
def work(tmp_path):
    folders = ("--jobs", "1", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "results"))
    return lambda *options: long_context.main(["parity", *folders, *options])


def test_models_are_trained_and_asked_once(tmp_path, ran, work, capsys):
    work("--models", "lmm", "llama", "--seeds", "3", "--longest", "8")
    assert [command.split()[0] for command in ran] == ["train", "eval"] * 2
    assert "--variant lmm --seed 3" in ran[0]
    assert "--baseline llama --seed 3" in ran[2]
    found = read_results(tmp_path / "results" / "parity")
    assert [(s.model, s.length) for s in found.scores] == [("Titans (LMM), seed 3", 8), ("Llama, seed 3", 8)]
    assert "| Llama | 3 |" in (tmp_path / "results" / "parity" / "README.md").read_text()
    small, large = (model.parameters for model in found.models.values())
    assert small > 0
    assert large > 0
    assert all(model.train_tokens > 0 for model in found.models.values())

    work("--models", "lmm", "llama", "--seeds", "3", "--longest", "8")
    assert len(ran) == 4
    work("--models", "lmm", "--seeds", "3")
    work("--models", "lmm", "--seeds", "3")
    assert len(ran) == 5
    assert "--length 16 --samples 2" in ran[4]  # 8 has been asked
    lengths = [s.length for s in read_results(tmp_path / "results" / "parity").scores]
    assert sorted(lengths) == [8, 8, 16]
    work("--models", "lmm", "--seeds", "3", "--rates", "1e-4", "--longest", "8")
    assert "--learning-rate 0.0001" in ran[5]
    assert "Titans (LMM), rate 0.0001, seed 3" in read_results(tmp_path / "results" / "parity").models
    capsys.readouterr()


def test_what_has_been_measured_is_in_every_table(tmp_path, ran, work, capsys):
    work("--models", "lmm", "--seeds", "3")
    work("--models", "lmm", "--seeds", "3", "--out", str(tmp_path / "others"))
    assert [command.split()[0] for command in ran] == ["train", "eval"]
    one, other = (read_results(tmp_path / folder / "parity") for folder in ("results", "others"))
    assert one.scores == other.scores
    assert one.models == other.models
    capsys.readouterr()


def test_what_is_asked_otherwise_is_asked_again(ran, work, monkeypatch, capsys):
    work("--models", "lmm", "--seeds", "3")
    monkeypatch.setitem(QUESTIONS, "parity", (replace(PARITY, samples=3),))
    work("--models", "lmm", "--seeds", "3")
    assert [command.split()[0] for command in ran] == ["train", "eval", "eval"]
    assert "--length 8 16 --samples 3" in ran[2]
    scores = Path(ran[2].split("--save ")[1])
    found = read_results(scores)
    write_results(scores, replace(found, scores=[replace(s, command="titans eval by hand") for s in found.scores]))
    work("--models", "lmm", "--seeds", "3")
    assert ran[3] == ran[2]
    capsys.readouterr()


def test_the_commands_of_all_that_is_there_are_kept(tmp_path, ran, work, capsys):
    work("--models", "lmm", "--seeds", "3", "--longest", "8")
    work("--models", "lmm", "--seeds", "3", "--longest", "8", "--rates", "1e-4")
    work("--models", "lmm", "--seeds", "3", "--longest", "8")
    commands = (read_results(tmp_path / "results" / "parity").command or "").splitlines()
    assert ["--rates 1e-4" in command for command in commands] == [False, True]
    page = (tmp_path / "results" / "parity" / "README.md").read_text()
    assert "".join(f"    {command}\n\n" for command in commands) in page
    capsys.readouterr()


@pytest.mark.parametrize("option", ["--text", "--haystack"])
def test_a_text_that_is_not_there_is_said_before_the_training(option, ran, work, capsys):
    with pytest.raises(SystemExit, match="2"):
        work("--models", "lmm", option, "nowhere.txt")
    assert f"{option} nowhere.txt does not exist" in capsys.readouterr().err
    assert not ran


def test_without_jobs_nothing_is_done(capsys):
    with pytest.raises(SystemExit, match="2"):
        long_context.main(["parity", "--jobs", "0"])
    assert "--jobs is 0; it must be at least 1" in capsys.readouterr().err


def test_a_longest_that_leaves_no_question_is_refused_before_the_training(ran, work, capsys):
    with pytest.raises(SystemExit, match="2"):
        work("--longest", "7")
    assert "--longest is 7; it must be at least 8, the shortest sample's" in capsys.readouterr().err
    assert not ran


def test_what_fails_is_said_and_the_others_go_on(tmp_path, ran, work, capsys):
    (tmp_path / "runs" / "parity").mkdir(parents=True)
    (tmp_path / "runs" / "parity" / "lmm-0").write_text("in the way")
    with pytest.raises(SystemExit, match=r"titans train .*lmm.* ended with code 2: and at last why"):
        work("--models", "lmm", "attention", "--seeds", "0")
    found = read_results(tmp_path / "results" / "parity")
    assert {score.model for score in found.scores} == {"control, seed 0"}
    capsys.readouterr()


@pytest.mark.parametrize("model", ["lmm", "attention", "llama"])
def test_what_the_recipe_would_not_make_any_more_is_refused(model, ran, work, monkeypatch, capsys):
    work("--models", model, "--seeds", "0")
    known = RECIPES["parity"]
    others = (
        replace(known, config=known.config.replace(window_size=16, dim=40)),
        replace(known, settings=replace(known.settings, weight_decay=0.5)),
    )
    for other in others:
        monkeypatch.setitem(RECIPES, "parity", other)
        with pytest.raises(SystemExit, match=rf"{model}-0 holds another model than the recipe parity makes now"):
            work("--models", model, "--seeds", "0")
    monkeypatch.setitem(RECIPES, "parity", known)
    work("--models", model, "--seeds", "0")
    assert len(ran) == 2
    capsys.readouterr()


def test_a_run_that_was_taught_otherwise_is_refused(ran, work, monkeypatch, capsys):
    work("--models", "lmm", "--seeds", "0")
    monkeypatch.setitem(RECIPES, "parity", replace(RECIPES["parity"], source=RECIPES["S3"].source))
    with pytest.raises(SystemExit, match="lmm-0 was begun when its recipe for state-tracking taught otherwise"):
        work("--models", "lmm", "--seeds", "0")
    capsys.readouterr()


def test_a_run_of_another_text_is_refused(tmp_path, ran, work, monkeypatch, capsys):
    monkeypatch.setitem(RECIPES, "parity", replace(RECIPES["parity"], reads_text=True))
    for name in ("one.txt", "other.txt"):
        (tmp_path / name).write_text(f"What {name} says.\n" * 100)
    work("--models", "lmm", "--seeds", "0", "--text", str(tmp_path / "one.txt"))
    work("--models", "lmm", "--seeds", "0", "--text", str(tmp_path / "one.txt"))
    assert len(ran) == 2
    for given, said in ((["--text", str(tmp_path / "other.txt")], r"not on .*other\.txt"), ([], "not on Python's")):
        with pytest.raises(SystemExit, match=rf"lmm-0 was trained on .*one\.txt, {said}"):
            work("--models", "lmm", "--seeds", "0", *given)
    capsys.readouterr()


def test_answers_about_two_haystacks_do_not_come_into_one_row(tmp_path, ran, work, monkeypatch, capsys):
    work("--models", "lmm", "--seeds", "0")
    folder = tmp_path / "runs" / "parity" / "lmm-0" / "scores"
    found = read_results(folder)
    elsewhere = [replace(score, command=f"{score.command} --haystack a.txt") for score in found.scores]
    write_results(folder, replace(found, scores=elsewhere))
    with pytest.raises(SystemExit, match=r"lmm-0/scores holds answers about a\.txt: move it away"):
        work("--models", "lmm", "--seeds", "0")
    (tmp_path / "b.txt").write_text("another")
    write_results(folder, found)
    with monkeypatch.context() as patched:
        patched.setitem(RECIPES, "parity", replace(RECIPES["parity"], reads_text=True))
        patched.setattr("long_context.require_text", lambda *_: None)
        with pytest.raises(SystemExit, match="holds answers about what the run held out"):
            work("--models", "lmm", "--seeds", "0", "--haystack", str(tmp_path / "b.txt"))
    capsys.readouterr()


def test_text_for_a_recipe_that_reads_none_is_refused_before_anything_is_trained(tmp_path, ran, work, capsys):
    (tmp_path / "b.txt").write_text("another")
    for name in ("text", "haystack"):
        with pytest.raises(SystemExit):
            work("--models", "lmm", f"--{name}", str(tmp_path / "b.txt"))
        assert f"the recipe 'parity' reads no text: leave --{name} out" in capsys.readouterr().err
    assert not ran


def test_a_run_of_another_version_is_refused_in_a_line(tmp_path, ran, work, capsys):
    work("--models", "lmm", "--seeds", "0")
    config = tmp_path / "runs" / "parity" / "lmm-0" / "checkpoint" / "config.json"
    config.write_text(config.read_text().replace("{", '{"long_ago": 1, ', 1))
    with pytest.raises(SystemExit, match="long_ago"):
        work("--models", "lmm", "--seeds", "0")
    capsys.readouterr()


def test_what_is_named_twice_is_done_once(ran, work, capsys):
    work("--models", "lmm", "lmm", "--seeds", "0", "0")
    assert len(ran) == 2
    capsys.readouterr()


def test_an_interrupt_is_one_clear_line(ran, work, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("long_context.execute", interrupted)
    with pytest.raises(SystemExit, match="interrupted: the same command goes on from here"):
        work("--models", "lmm", "--seeds", "0")


def test_an_interrupted_training_goes_on(tmp_path, ran, work, monkeypatch, capsys):
    monkeypatch.setattr("long_context.Run.is_trained", lambda run: False)
    work("--models", "lmm", "--seeds", "0")
    work("--models", "lmm", "--seeds", "0")
    assert "train --resume" in ran[2]
    assert len(ran) == 3
    capsys.readouterr()


def test_every_recipe_and_model_is_known():
    assert set(QUESTIONS) <= set(RECIPES)
    assert set(LABELS) == {*VARIANTS, *NAMES}
    assert set(LABELS.values()) == set(STYLES)
    assert {question.task.split()[0] for questions in QUESTIONS.values() for question in questions} <= set(TASKS)
    text = QUESTIONS["needles"][0].up_to(4096).arguments("book.txt")
    assert " ".join(text) == ("needles --kind pk --length 2048 4096 --samples 100 --batch-size 50 --haystack book.txt")
    assert QUESTIONS["needles"][-1].up_to(131072).lengths == ()

"""Tasks from the command line: trained models are asked."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from titans.baselines import BaselineConfig, BaselineLM
from titans.cli import scores
from titans.cli.main import main
from titans.models.config import TitansConfig
from titans.models.language_model import TitansLM
from titans.report.interval import interval
from titans.report.results import Results, read_results, write_results

QUICK = ("--recipe", "needles", "--steps", "3", "--batch-size", "1", "--length", "256", "--save-every", "1")


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def model(tmp_path) -> Path:
    torch.manual_seed(0)
    TitansLM(TitansConfig(dim=16, num_layers=1, num_heads=2)).save(tmp_path / "model")
    return tmp_path / "model"


def test_needles_by_length_and_depth(model, book, capsys):
    options = ("--checkpoint", model, "--haystack", book, "--kind", "w", "--length", 500, 700, "--depths", 3)
    assert run("eval", "needles", *options, "--samples", 2, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    cells = [(cell["length"], cell["depth"], cell["samples"]) for cell in found["scores"]]
    assert cells == [(length, depth, 2) for length in (500, 700) for depth in (0.0, 0.5, 1.0)]
    assert run("eval", "needles", *options, "--samples", 2) == 0
    table = capsys.readouterr().out
    assert "50%" in table
    assert "0.0%" in table
    assert "0 to 66%" in table
    assert {tuple(cell["right_interval"]) for cell in found["scores"]} == {interval(0.0, 2)}


def test_text_that_is_too_short_for_the_samples_is_said(model, book, capsys):
    ask = ("eval", "needles", "--checkpoint", model, "--haystack", book, "--kind", "n", "--samples", 1)
    book.write_text("word " * 100)
    said = "titans: the text to hide things in has 500 tokens: in a sample of 501 some come again\n"
    for lengths, there in (((500, 400), False), ((400, 501), True)):
        assert run(*ask, "--length", *lengths) == 0
        assert (said in capsys.readouterr().err) == there


def test_the_seed_decides_and_pieces_do_not(model, book, capsys):
    def scores(*options: object) -> str:
        given = ("--checkpoint", model, "--haystack", book, "--length", 600, "--samples", 3, "--json")
        assert run("eval", "needles", *given, *options) == 0
        return capsys.readouterr().out

    assert scores() == scores("--piece", 100, "--batch-size", 2)


def test_state_tracking(tmp_path, capsys):
    model = tmp_path / "model"
    TitansLM(TitansConfig(dim=16, num_layers=1, num_heads=2, vocab_size=120)).save(model)
    assert run("eval", "state-tracking", "--checkpoint", model, "--problem", "S5", "--length", 20, "--json") == 0
    assert json.loads(capsys.readouterr().out)["scores"][0]["length"] == 20


def test_with_examples_a_models_own_words_are_judged(model, book, tmp_path, capsys, monkeypatch):
    (tmp_path / "qa1_facts_test.txt").write_text("1 Mary went to the garden.\n2 Where is Mary? \tgarden\t1\n")
    heard = []
    monkeypatch.setattr("titans.tasks.babilong_words.scored", lambda *judged: bool(heard.append(judged)) or True)
    asked = ("--haystack", book, "--babi", tmp_path, "--length", 3000, "--samples", 2)
    options = ("--checkpoint", model, *asked, "--mode", "fewshot", "--save", tmp_path / "scores")
    assert run("eval", "babilong", *options) == 0
    assert "100.0%" in capsys.readouterr().out
    assert [(target, question) for _, target, question, _ in heard] == [("garden", "Where is Mary?")] * 2
    (score,) = read_results(tmp_path / "scores").scores
    assert (score.task, score.accuracy, score.tokens_accuracy) == ("babilong qa1, own words", 1.0, None)
    assert run("report", tmp_path / "scores") == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("cake",), "there is no task 'cake'; choose one of needles"),
        (
            ("mqar", "--length", "64"),
            "the task 'mqar' has 8192 tokens and the model knows 256: if it has learned mqar, give --vocab-size 256",
        ),
        (("copying", "--length", "64"), "the task 'copying' has 16 tokens and the model knows 256"),
        (("needles", "--length"), "--length is empty: give it one length or more"),
        (
            ("needles", "--length", "99999999999999999999"),
            "--length is 99999999999999999999; it must be at least 1 and",
        ),
        (("needles", "--depths", "1002"), "--depths is 1002; it must be at least 1 and at most 1,001"),
        (("mqar", "--num-pairs", "9999"), "--num-pairs is 9999; it must be"),
        (("needles", "--save", ""), "--save is empty: give it a value, or leave it out"),
        (("needles", "--length", "0"), "--length is 0; it must be at least 1"),
        (("babilong", "--length", "-1"), "--length is -1; it must be at least 0"),
        (("needles", "--length", "99"), "--length 99 is too short for needles: it takes 372 tokens"),
        (("needles", "--samples", "0"), "--samples is 0; it must be at least 1"),
        (("state-tracking", "--tokens-each", "0"), "--tokens-each is 0; it must be at least 1"),
        (("mqar", "--num-pairs", "0"), "--num-pairs is 0; it must be at least 1"),
        (("babilong", "--babi", "nowhere"), "nowhere"),
        (("needles", "--kind", "x"), "kind"),
        (("needles", "--seed", "-1"), "--seed is -1; it must be at least 0"),
        (("state-tracking", "--depths", "3"), "--depths is about needles: leave it out, or ask for that"),
        (("mqar", "--haystack", "book.txt"), "--haystack is about needles and babilong: leave it out"),
        (("babilong", "--kind", "pk"), "--kind is about needles: leave it out"),
        (("needles", "--text", "book.txt"), "--text is about text to predict: leave it out"),
        (("--kind", "pk"), "--kind is about needles: leave it out"),
        (("--length", "512"), "--length is about a task: name one, for example titans eval needles --length ..."),
    ],
)
def test_wrong_input_is_one_clear_line(options, words, model, book, capsys):
    hides = options[0] in ("needles", "babilong")
    assert run("eval", *options, "--checkpoint", model, *(("--haystack", book) if hides else ())) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert words in error[0]


@pytest.mark.parametrize("kind", ["baseline", "titans"])
def test_a_model_that_computes_no_numbers_is_named(kind, tmp_path, book, capsys):
    if kind == "baseline":
        model = BaselineLM(BaselineConfig(name="llama", dim=16, num_layers=1, num_heads=2))
    else:
        model = TitansLM(TitansConfig(variant="mag", dim=16, num_layers=2, num_heads=2))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "gate_proj" in name or "up_proj" in name or "mlp.project_in" in name:
                weight.mul_(1e30)  # numbers still, but not their products
    spoilt = tmp_path / "spoilt"
    model.save(spoilt)
    asked = [("eval", "needles", "--haystack", book, "--length", 400, "--samples", 1), ("eval", "--text", book)]
    if kind == "titans":
        asked += [("generate", "--prompt", "the "), ("inspect", "--prompt", "the fox", "--out", tmp_path / "x.svg")]
    for one in asked:
        assert run(*one, "--checkpoint", spoilt) == 2
        (error,) = capsys.readouterr().err.splitlines()[-1:]
        assert error.startswith(f"titans: error: {spoilt} is of no use (")
        assert error.endswith("): train it again, with a lower --learning-rate")


def test_scores_of_several_models_meet_in_one_folder(tmp_path, book, capsys, monkeypatch):
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        TitansLM(TitansConfig(dim=16, num_layers=1, num_heads=2)).save(tmp_path / name)
    ask = ("eval", "needles", "--haystack", book, "--length", 512, "--samples", 2, "--save", tmp_path / "scores")
    monkeypatch.setattr("sys.argv", ["titans", "eval", "needles", "--haystack", "a book.txt"])
    assert run(*ask, "--checkpoint", tmp_path / "one", "--kind", "n", "--depths", 2) == 0
    assert run(*ask, "--checkpoint", tmp_path / "two", "--kind", "pk", "--label", "other") == 0
    assert run(*ask, "--checkpoint", tmp_path / "one", "--kind", "n", "--depths", 2, "--seed", 1) == 0
    stored = json.loads((tmp_path / "scores" / "results.json").read_text())
    cells = [(s["model"], s["task"], s["length"], s["depth"]) for s in stored["scores"]]
    assert sorted(cells, key=str) == [
        ("one", "needles n", 512, 0.0),
        ("one", "needles n", 512, 1.0),
        ("other", "needles pk", 512, None),
    ]
    assert {s["command"] for s in stored["scores"]} == {"titans eval needles --haystack 'a book.txt'"}
    assert all(s["samples"] == 2 and 0 <= s["accuracy"] <= s["tokens_accuracy"] <= 1 for s in stored["scores"])
    assert all(f"torch {torch.__version__}" in s["machine"] for s in stored["scores"])
    assert stored["machine"] is None
    assert run("report", tmp_path / "scores") == 0
    assert "needles n" in (tmp_path / "scores" / "report.html").read_text()
    capsys.readouterr()


def test_what_does_not_fit_is_refused_before_the_model_is_loaded(model, book, capsys, monkeypatch):
    monkeypatch.setattr("titans.cli.scores.load_model", lambda _: pytest.fail("loaded"))
    assert run("eval", "needles", "--checkpoint", model, "--haystack", book, "--length", 5) == 2
    assert "--length 5 is too short" in capsys.readouterr().err


@pytest.mark.usefixtures("stories")
@pytest.mark.parametrize(("option", "words"), [("--babi", "nowhere is no folder"), ("--length", "5 is too short")])
def test_babilong_refuses_before_a_long_text_is_read(option, words, model, book, capsys, monkeypatch):
    monkeypatch.setattr("titans.cli.corpus.documents", lambda *_, **__: pytest.fail("read"))
    value = "nowhere" if option == "--babi" else 5
    assert run("eval", "babilong", "--checkpoint", model, "--haystack", book, option, value) == 2
    assert words in capsys.readouterr().err


def test_a_path_is_shown_as_it_is(capsys):
    scores.show("needles pk", Path("a[bold]b[/y]"), 0, [], as_json=False)
    assert "a[bold]b[/y]" in " ".join(capsys.readouterr().out.split())


def test_scores_are_kept_as_they_come(tmp_path, book, capsys, monkeypatch):
    from titans.cli import scores

    TitansLM(TitansConfig(dim=16, num_layers=1, num_heads=2)).save(tmp_path / "model")
    original = scores.score

    def interrupted(model, task, length, samples, **options):
        if length == 1024:
            raise KeyboardInterrupt
        return original(model, task, length, samples, **options)

    monkeypatch.setattr(scores, "score", interrupted)
    ask = ("eval", "needles", "--haystack", book, "--samples", 1, "--save", tmp_path / "scores")
    assert run(*ask, "--checkpoint", tmp_path / "model", "--length", 512, 1024) == 130
    stored = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert [score["length"] for score in stored["scores"]] == [512]
    assert f"titans: interrupted; its scores are in {tmp_path / 'scores'}" in capsys.readouterr().err
    assert run(*ask, "--checkpoint", tmp_path / "model", "--length", 1024) == 130
    assert capsys.readouterr().err.endswith("titans: interrupted\n")


def test_where_scores_cannot_go_is_said_before_anything_is_measured(tmp_path, book, capsys, monkeypatch):
    from titans.cli import scores

    TitansLM(TitansConfig(dim=16, num_layers=1, num_heads=2)).save(tmp_path / "model")
    monkeypatch.setattr(scores, "score", lambda *_, **__: pytest.fail("it was measured"))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "results.json").write_text('{"title": ')
    ask = ("--checkpoint", tmp_path / "model", "--haystack", book, "--length", 512)
    for arguments, words in (
        (("needles", "--save", tmp_path / "damaged"), "results.json"),
        (("needles", "--save", book), "book.txt"),
        (("needles", "--label", "one"), "give --save DIR as well"),
    ):
        assert run("eval", *arguments, *ask) == 2, arguments
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


def test_what_others_write_in_the_meantime_stays(tmp_path, book, capsys, monkeypatch):
    from titans.cli import scores

    TitansLM(TitansConfig(dim=16, num_layers=1, num_heads=2)).save(tmp_path / "model")
    ask = ("eval", "needles", "--length", 512, "--samples", 1, "--save", tmp_path, "--checkpoint", tmp_path / "model")
    original, once = scores.score, []

    def meanwhile(*arguments, **options):
        if not once:
            once.append(True)
            assert run(*ask, "--label", "other") == 0
        return original(*arguments, **options)

    monkeypatch.setattr(scores, "score", meanwhile)
    assert run(*ask, "--label", "one") == 0
    assert {score.model for score in read_results(tmp_path).scores} == {"one", "other"}
    capsys.readouterr()


def test_every_depth_has_samples_of_its_own(model, book, capsys, monkeypatch):
    from titans.cli import scores

    asked = []
    original = scores.score

    def watched(model, task, *arguments, seed, **options):
        asked.append((task.depth, seed))
        return original(model, task, *arguments, seed=seed, **options)

    monkeypatch.setattr(scores, "score", watched)
    ask = ("eval", "needles", "--checkpoint", model, "--haystack", book, "--length", 512, "--samples", 1)
    assert run(*ask, "--seed", 7, "--depths", 3) == 0
    assert run(*ask, "--seed", 7) == 0
    assert asked == [(0.0, (7, 0)), (0.5, (7, 500)), (1.0, (7, 1000)), (None, 7)]
    capsys.readouterr()


def test_as_many_are_read_side_by_side_as_asked(model, book, capsys, monkeypatch):
    rows, original = [], TitansLM.forward

    def watched(self, tokens, *arguments, **options):
        rows.append(len(tokens))
        return original(self, tokens, *arguments, **options)

    monkeypatch.setattr(TitansLM, "forward", watched)
    ask = ("eval", "needles", "--checkpoint", model, "--haystack", book, "--length", 512, "--samples", 5)
    assert run(*ask, "--batch-size", 3) == 0
    assert set(rows) == {3, 2}
    capsys.readouterr()


def test_what_needs_no_text_looks_for_none(tmp_path, stories, capsys, monkeypatch):
    TitansLM(TitansConfig(dim=16, num_layers=1, num_heads=2)).save(tmp_path / "model")
    monkeypatch.setattr("titans.cli.corpus.documents", lambda *_, **__: pytest.fail("looked for text"))
    one = ("--checkpoint", tmp_path / "model", "--samples", 1)
    assert run("eval", "needles", *one, "--kind", "pk", "--length", 512, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["task"], found["checkpoint"], found["seed"]) == ("needles pk", str(tmp_path / "model"), 0)
    assert run("eval", "babilong", *one, "--length", 0) == 0
    assert run("eval", "babilong", *one, "--length", 100) == 2
    assert "does not say which text was held out: name one by --haystack" in capsys.readouterr().err


def test_a_haystack_that_is_not_needed_has_to_be_there_all_the_same(model, capsys):
    asked = ("--checkpoint", model, "--kind", "pk", "--length", 512, "--samples", 1)
    assert run("eval", "needles", *asked, "--haystack", "nowhere.txt") == 2
    assert "nowhere.txt does not exist" in capsys.readouterr().err


def test_a_length_is_asked_once(model, capsys):
    asked = ("--checkpoint", model, "--length", 600, 512, 600, "--samples", 1, "--json")
    assert run("eval", "needles", *asked) == 0
    assert [score["length"] for score in json.loads(capsys.readouterr().out)["scores"]] == [600, 512]


def test_a_run_that_read_no_text_has_held_none_out(tmp_path, capsys):
    assert run("train", "--recipe", "parity", "--steps", 1, "--out", tmp_path / "run") == 0
    for asked in (("eval",), ("eval", "needles", "--kind", "n", "--length", 700)):
        assert run(*asked, "--checkpoint", tmp_path / "run") == 2
        error = capsys.readouterr().err
        assert f"{tmp_path / 'run'} has learned state-tracking and no text: ask it by titans eval state-t" in error


def test_tokens_of_another_task_are_no_words_of_a_model(tmp_path, book, capsys):
    asked = ("--length", 64, "--samples", 1)
    quick = ("--steps", 1, "--batch-size", 1, "--length", 64)
    assert run("train", "--recipe", "copying", *quick, "--out", tmp_path / "copying") == 0
    assert run("eval", "copying", *asked, "--checkpoint", tmp_path / "copying") == 0
    capsys.readouterr()
    for folder in (tmp_path / "copying", tmp_path / "copying" / "checkpoint"):
        assert run("eval", "in-context-recall", *asked, "--checkpoint", folder) == 2
        assert "has learned copying; in-context-recall has other tokens: name a model" in capsys.readouterr().err
    assert run("train", "--text", book, "--preset", "tiny", *quick, "--out", tmp_path / "text") == 0
    capsys.readouterr()
    assert run("eval", "mqar", *asked, "--vocab-size", 256, "--checkpoint", tmp_path / "text") == 2
    assert "has learned text; mqar has other tokens" in capsys.readouterr().err


def test_runs_are_told_apart_where_their_checkpoints_are_named(tmp_path, book, capsys):
    for name in ("one", "two"):
        assert run("train", *QUICK, "--text", book, "--out", tmp_path / name) == 0
        asked = ("--length", 512, "--samples", 1, "--save", tmp_path / "scores")
        assert run("eval", "needles", *asked, "--checkpoint", tmp_path / name / "checkpoint") == 0
    assert {score.model for score in read_results(tmp_path / "scores").scores} == {"one", "two"}
    capsys.readouterr()


def test_saving_scores_keeps_the_rest_of_the_results(tmp_path, book, capsys):
    TitansLM(TitansConfig(dim=16, num_layers=1, num_heads=2)).save(tmp_path / "model")
    there = Results(title="Mine", command="titans quickstart", settings={"seed": 3}, notes=["One seed."])
    write_results(tmp_path, there)
    ask = ("eval", "needles", "--haystack", book, "--length", 512, "--samples", 1, "--save", tmp_path)
    assert run(*ask, "--checkpoint", tmp_path / "model") == 0
    stored = read_results(tmp_path)
    assert replace(stored, scores=[], created=None) == there
    assert len(stored.scores) == 1
    capsys.readouterr()


def test_an_unprintable_label_leaves_results_that_can_be_read_again(tmp_path, book, capsys):
    TitansLM(TitansConfig(dim=16, num_layers=1, num_heads=2)).save(tmp_path / "model")
    ask = ("eval", "needles", "--haystack", book, "--length", 512, "--samples", 1, "--save", tmp_path)
    for _ in range(2):
        assert run(*ask, "--checkpoint", tmp_path / "model", "--label", "a\x01b") == 0
    assert len(read_results(tmp_path).scores) == 1
    capsys.readouterr()


def test_facts_alone(model, book, stories, tmp_path, capsys):
    story = "1 Here it is.\n2 Now it is there.\n3 What is it? \tgarden\t1\n1 Here.\n2 What is it? \tkitchen\t1\n"
    (tmp_path / "data" / "babi" / "qa1_story_test.txt").write_text(story)  # samples of two lengths
    options = ("--checkpoint", model, "--haystack", book, "--length", 0, 100, "--samples", 6, "--json")
    assert run("eval", "babilong", *options) == 0
    found = json.loads(capsys.readouterr().out)["scores"]
    assert [(cell["length"], cell["samples"]) for cell in found] == [(0, 6), (100, 6)]
    assert run("eval", "babilong", *options, "--save", tmp_path / "scores") == 0
    assert [score.length for score in read_results(tmp_path / "scores").scores] == [0, 100]
    assert run("report", tmp_path / "scores") == 0
    capsys.readouterr()

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, replace
from html.parser import HTMLParser

import pytest

from titans.errors import TitansError
from titans.report.html import render, write_report
from titans.report.results import Results, TaskScore, Training, TrainingPoint, write_results

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Collects a page's elements and text, and insists that every element is closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_page_is_well_formed_and_holds_every_section(tmp_path, results):
    write_results(tmp_path, results)
    path = write_report(tmp_path)
    assert path == tmp_path / "report.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    figures = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(figures) == page.tags.count("svg") == 2 + 2 + 2 + (1 + 2 + 1 + 1) + 3
    for figure in figures:
        ElementTree.fromstring(figure)
    headings = (
        "Learning",
        "Far into a document",
        "Recalling a pass key",
        "Tasks",
        "Reading without end",
    )
    for expected in (
        *headings,
        "Processor",
        "A small run",
        "titans quickstart --seed 0",
        "a processor, 2 cores",
        "window size",
        "one seed",
    ):
        assert expected in page.text


def test_page_loads_nothing_and_runs_nothing(results):
    text = render(results)
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name == "src" or name.startswith("on")]
    assert all(value.startswith("#") for name, value in page.attributes if name == "href")
    assert "http" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) == {"#"}


def test_ids_are_unique_across_figures(results):
    ids = [value for name, value in Page(render(results)).attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 0


def test_scores_of_several_machines_say_so(results):
    scores = [replace(score, machine=f"machine {n % 2}") for n, score in enumerate(results.scores)]
    text = Page(render(replace(results, scores=scores))).text
    assert [text.count(name) for name in ("machine 0", "machine 1")] == [1, 1]
    assert text.count("Scores of ") == 2


def test_equal_results_give_an_equal_page(results):
    assert render(results) == render(results)


def test_hostile_strings_are_only_text(tmp_path, results, hostile):
    value = json.loads(json.dumps(asdict(results)))
    value |= {"title": hostile, "command": hostile, "created": hostile, "notes": [hostile]}
    value["settings"] = {hostile: hostile}
    value["machine"]["processor"] = hostile
    value["models"]["titans"]["label"] = hostile
    for section, key in (("training", "curves"), ("distance", "series"), ("recall", "accuracy")):
        value[section][key] = value[section][key] | {hostile: next(iter(value[section][key].values()))}
    value["training"]["unit"] = hostile
    value["scores"][0] |= {"model": hostile, "task": hostile, "machine": hostile}
    (tmp_path / "results.json").write_text(json.dumps(value))
    text = write_report(tmp_path).read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert '<script>alert("x")</script>' in page.text
    for figure in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        ElementTree.fromstring(figure)


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("machine", "Processor"),
        ("training", "Learning"),
        ("distance", "Far into a document"),
        ("recall", "Recalling a pass key"),
        ("scores", "Tasks"),
        ("stream", "Reading without end"),
    ],
)
def test_every_section_is_optional(results, missing, words):
    assert words not in Page(render(replace(results, **{missing: [] if missing == "scores" else None}))).text


@pytest.mark.parametrize("only", ["models", "training", "distance", "recall", "scores", "stream"])
def test_every_section_can_stand_alone(tmp_path, results, only):
    write_results(tmp_path, replace(Results(title="t"), **{only: getattr(results, only)}))
    Page(write_report(tmp_path).read_text(encoding="utf-8"))


def test_each_task_has_a_figure_and_a_table(results):
    page = Page(render(replace(Results(title="t"), scores=results.scores, models=results.models)))
    assert "needles n: in how many samples" in page.text
    assert "20 to 50 samples in each cell" in page.text
    assert "needles pk: in how many samples" in page.text
    assert "Titans (MAG)2,097,152100%7.0%2 to 26%7.0%20" in page.text
    assert "Titans (MAG)2,097,152any" not in page.text
    assert "what models remember" in page.text
    assert "neural long-term memory" not in page.text


def test_a_task_without_depths_has_no_heat_map_and_the_commands_are_shown():
    score = TaskScore(
        model="m", task="mqar", length=256, accuracy=0.5, tokens_accuracy=0.75, samples=10, command="titans eval mqar"
    )
    text = render(Results(title="t", scores=[score, replace(score, length=512)]))
    page = Page(text)
    assert text.count("<svg") == 1
    assert "m512any50.0%24 to 76%75.0%10" in page.text
    assert "by where in the text" not in page.text
    assert page.text.count("titans eval mqar") == 1


def test_a_long_curve_is_thinned_in_the_table_and_keeps_its_end():
    points = [TrainingPoint(tokens=i, seconds=float(i), bits=2.0) for i in range(1, 5001)]
    text = render(Results(title="t", training=Training(curves={"run": points})))
    assert "(60 of 5000 points)" in text
    assert "<td>5,000</td>" in text
    assert len(text) < 100_000


def test_a_training_log_alone_is_enough(tmp_path):
    lines = [{"tokens": 64 * i, "seconds": 0.5 * i, "bits_per_token": 8 / i} for i in range(1, 5)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert page.tags.count("svg") == 2
    assert "Bits per token by time" in page.text


def test_scores_saved_in_a_runs_folder_leave_its_curves_in_the_report(tmp_path, results):
    write_results(tmp_path, Results(title="t", scores=results.scores))
    log = tmp_path / "metrics.jsonl"
    log.write_text("")  # of a run that has only begun
    assert "Learning" not in Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    log.write_text('{"tokens": 64, "seconds": 0.5, "bits_per_token": 8.0}\n')
    text = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "Learning" in text
    assert "needles pk: in how many samples" in text


def test_errors_are_one_line_that_names_the_place(tmp_path):
    def error() -> str:
        with pytest.raises(TitansError) as caught:
            write_report(tmp_path / "run")
        assert "\n" not in str(caught.value)
        assert str(tmp_path / "run") in str(caught.value)
        return str(caught.value)

    assert "is not a folder" in error()
    (tmp_path / "run").mkdir()
    assert "neither results.json nor metrics.jsonl" in error()
    results = tmp_path / "run" / "results.json"
    results.write_text('{"title": "t"}')
    assert "holds no measurement" in error()
    results.write_text('{"title": ')
    assert "damaged" in error()
    results.write_text('{"title": "t", "stream": {"points": [{"tokens": 1}]}}')
    assert "stream.points[0].seconds is missing" in error()
    assert not (tmp_path / "run" / "report.html").exists()

"""The page on a recipe's runs: what stands in its tables, and what its picture shows."""

import re

import pytest
from long_context_page import best_rates, contenders, draw, right, write_page

from titans.report.results import ModelSummary, Results, TaskScore, write_results


def score(model, length, accuracy, task="needles pk", samples=4, **more):
    return TaskScore(model=model, task=task, length=length, accuracy=accuracy, samples=samples, **more)


def summary(name):
    return ModelSummary(
        label=name, parameters=1234, train_tokens=2_500_000, train_seconds=61.2, final_bits_per_byte=None
    )


def written(tmp_path, scores):
    names = dict.fromkeys(one.model for one in scores)
    write_results(
        tmp_path, Results(title="needles", command="the command", scores=scores, models={n: summary(n) for n in names})
    )
    return write_page(tmp_path).read_text()


def row(page, *start):
    """The one line of a table that begins with these cells."""
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {' | '.join(start)} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_seed_stands_in_the_tables_and_depths_are_pooled(tmp_path):
    page = written(
        tmp_path,
        [
            score("Llama, seed 0", 2048, 0.25),
            score("Titans (MAC), seed 10", 2048, 0.5),
            score("Titans (MAC), seed 2", 2048, 1.0, depth=0.0),
            score("Titans (MAC), seed 2", 2048, 0.5, depth=1.0),
            score("Titans (MAC), seed 2", 131072, 0.75),
        ],
    )
    assert "    the command\n" in page
    assert row(page, "Titans (MAC)", "2, 10") == ["Titans (MAC)", "2, 10", "1,234", "2.5, 2.5 M", "61, 61"]
    assert row(page, "model", "2,048") == ["model", "2,048", "131,072"]
    assert row(page, "Titans (MAC)", "75, 50") == ["Titans (MAC)", "75, 50", "75, -"]
    assert row(page, "Llama", "25") == ["Llama", "25", "-"]
    assert row(page, "*samples*") == ["*samples*", "*4 to 8*", "*4*"]
    assert page.index("| Titans (MAC) | 75") < page.index("| Llama | 25")
    assert (tmp_path / "by_length.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize("deeper", ["", "earlier"])
def test_a_page_leads_to_what_it_means(tmp_path, deeper):
    folder = tmp_path / deeper
    folder.mkdir(exist_ok=True)
    (meant,) = re.findall(r"\[long context\]\((.*?)\)", written(folder, [score("Llama, seed 0", 2048, 0.25)]))
    assert (folder / meant).read_text().startswith("# Long context")


@pytest.mark.parametrize("task", ["state-tracking parity", "mqar 8 pairs of 64 tokens", "noisy-recall"])
def test_where_much_is_asked_the_answers_count_and_the_whole_samples(task):
    scores = [score("Titans (LMM), seed 0", 32, 0.25, task=task, tokens_accuracy=0.9)]
    assert right(scores) == {
        task: {"Titans (LMM), seed 0": {32: 0.9}},
        f"{task}, whole samples": {"Titans (LMM), seed 0": {32: 0.25}},
    }


def test_tasks_are_in_the_order_of_their_numbers():
    scores = [
        score("Llama, seed 0", 32, 0.5, task=f"mqar {pairs} pairs", tokens_accuracy=0.5) for pairs in (128, 16, 8)
    ]
    assert [task for task in right(scores) if not task.endswith("samples")] == [
        "mqar 8 pairs",
        "mqar 16 pairs",
        "mqar 128 pairs",
    ]


def test_babilong_has_a_mean_where_all_its_tasks_were_asked():
    scores = [
        score("Titans (MAC), seed 0", 0, 1.0, task="babilong qa1"),
        score("Titans (MAC), seed 0", 0, 0.5, task="babilong qa2"),
        score("Titans (MAC), seed 0", 4096, 0.5, task="babilong qa2"),
        score("Llama, seed 0", 0, 0.5, task="babilong qa2"),
        score("Titans (MAC), seed 0", 0, 0.0, task="babilong qa1, own words"),
    ]
    assert right(scores)["babilong, mean"] == {"Titans (MAC), seed 0": {0: 0.75}}
    assert "babilong, mean" not in right(scores[:1])


def test_of_several_rates_the_best_is_drawn_by_what_was_asked_at_all():
    scores = [
        score("Llama, seed 0", 2048, 0.5),
        score("Llama, seed 0", 16384, 1.0),
        score("Llama, rate 0.001, seed 0", 2048, 0.75),
        score("Mamba, seed 0", 2048, 0.0),
    ]
    found = contenders(score.model for score in scores)
    assert [one.label for one in found] == ["Llama", "Llama, rate 0.001", "Mamba"]
    assert [one.label for one in best_rates(found, right(scores))] == ["Llama, rate 0.001", "Mamba"]
    of_another_seed = score("Llama, seed 1", 2048, 1.0)
    more = [*scores, of_another_seed]
    found = contenders(score.model for score in more)
    assert [one.label for one in best_rates(found, right(more))] == ["Llama, rate 0.001", "Mamba"]


def test_a_mark_of_fewer_seeds_than_its_line_is_hollow(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("long_context_page.save_svg", lambda figure, _: figures.append(figure))
    scores = [
        score("Llama, seed 0", 2048, 0.5),
        score("Llama, seed 1", 2048, 0.25),
        score("Llama, seed 0", 16384, 0.75),
        score("Mamba, seed 0", 16384, 0.5),
    ]
    draw(contenders(score.model for score in scores), right(scores), tmp_path / "picture.svg")
    ((axes,),) = [figure.axes for figure in figures]
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert [line.get_xydata().tolist() for line in hollow] == [[[1, 75]]]
    (legend,) = figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["Llama (2 seeds)", "Mamba (1 seed)"]


def test_a_name_without_a_seed_is_refused():
    with pytest.raises(AssertionError, match="Llama"):
        contenders(["Llama"])


def test_what_is_not_quite_all_is_not_shown_as_all(tmp_path):
    page = written(tmp_path, [score("Llama, seed 0", 2048, 0.996), score("Mamba, seed 0", 2048, 1.0)])
    assert row(page, "Llama", "99.6") == ["Llama", "99.6"]
    assert row(page, "Mamba", "100") == ["Mamba", "100"]

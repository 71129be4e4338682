"""The tables of docs/long-context.md are those of docs/results."""

import pytest
from long_context_page import write_page
from long_context_tables import PAGE, RESULTS, filled

from titans.report.results import ModelSummary, Results, TaskScore, write_results

ASKED = "before\n\n<!-- needles: needles pk -->\n{}\nafter\n"


@pytest.fixture
def results(tmp_path):
    name = "Llama, seed 0"
    score = TaskScore(model=name, task="needles pk", length=2048, accuracy=0.5, samples=4)
    summary = ModelSummary(label=name, parameters=1, train_tokens=1, train_seconds=1.0, final_bits_per_byte=None)
    write_results(tmp_path / "needles", Results(title="needles", scores=[score], models={name: summary}))
    return tmp_path


@pytest.mark.parametrize("there", ["", "| model | 2,048 |\n| --- | --- |\n| Llama | 99 |\n"])
def test_a_table_is_written_where_it_is_asked_for(there, results):
    table = "| model | 2,048 |\n| --- | --- |\n| Llama | 50 |\n| *samples* | *4* |\n"
    assert filled(ASKED.format(there), results) == ASKED.format(table)


def test_a_table_of_nothing_is_refused(results):
    with pytest.raises(KeyError, match="needles w"):
        filled(ASKED.replace("needles pk", "needles w"), results)


def test_the_page_has_the_numbers_of_the_results():
    page = PAGE.read_text()
    assert page.count("<!-- ") == 17
    assert filled(page) == page


@pytest.mark.parametrize("recipe", sorted(path.parent.name for path in RESULTS.glob("*/results.json")))
def test_the_pages_of_the_results_have_their_numbers(recipe, tmp_path):
    (tmp_path / "results.json").write_bytes((RESULTS / recipe / "results.json").read_bytes())
    assert write_page(tmp_path).read_text() == (RESULTS / recipe / "README.md").read_text()

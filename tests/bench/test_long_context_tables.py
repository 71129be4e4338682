"""The tables of docs/long-context.md are those of docs/results."""

import pytest
from long_context_page import page
from long_context_tables import PAGE, RESULTS, filled

from titans.report.results import ModelSummary, Results, TaskScore, read_results, write_results

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
    text = PAGE.read_text()
    assert text.count("<!-- ") == 22
    assert filled(text) == text


@pytest.mark.parametrize(
    "folder",
    sorted(path.parent for path in RESULTS.rglob("by_length.svg")),
    ids=lambda path: "-".join(path.relative_to(RESULTS).parts),
)
def test_the_pages_of_the_results_have_their_numbers(folder):
    assert page(read_results(folder), folder) == (folder / "README.md").read_text()

"""Which text a run reads."""

from pathlib import Path

import pytest

from titans.cli.corpus import corpus_of, remember, remembered
from titans.data import text as texts
from titans.errors import TitansError
from titans.tasks.recipes import recipe
from titans.training.config import TrainConfig


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text("It was the best of times, it was the worst of times.\n" * 1000)
    return path


def test_sources_are_read_beside_a_text_and_never_held_out(tmp_path, book):
    found = corpus_of(recipe("needles"), str(book), spool=tmp_path)
    train, held_out = found.sides(seed=0)
    assert {document.name for document in held_out} == {"book.txt"}
    assert 0.5 * 53_000 < sum(len(document) for document in train if document.name != "book.txt") <= 53_000
    assert any(document.name == "book.txt" for document in train)


@pytest.mark.parametrize(
    ("name", "has_text"), [("needles", False), ("babilong", True), ("parity", False), (None, True), (None, False)]
)
def test_none_where_no_text_is_given_or_the_recipe_wants_none(tmp_path, book, name, has_text):
    found = corpus_of(None if name is None else recipe(name), str(book) if has_text else None, spool=tmp_path)
    assert found.beside == []
    assert bool(found.text) == (name != "parity")


def test_a_run_is_not_gone_on_with_beside_other_sources(tmp_path, book, monkeypatch):
    needles = recipe("needles")
    found = corpus_of(needles, str(book), spool=tmp_path)
    remember(tmp_path, str(book), "needles", found, needles.settings)
    assert remembered(tmp_path, needles, seed=0) == found.sides(0)
    other = texts.standard_library_sources(most=20_000)
    monkeypatch.setattr(texts, "standard_library_sources", lambda **_: other)
    with pytest.raises(TitansError, match=r"book\.txt or Python's standard library has changed since"):
        remembered(tmp_path, needles, seed=0)


def test_a_run_is_not_gone_on_with_when_other_documents_are_held_out(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.txt").write_text("some text" * 3)
    found = corpus_of(None, str(folder), spool=tmp_path)
    remember(tmp_path, str(folder), None, found, TrainConfig(seed=1))
    assert remembered(tmp_path, None, seed=1) == found.sides(1)
    other = next(seed for seed in range(9) if found.sides(seed) != found.sides(1))
    with pytest.raises(TitansError, match=r"texts has changed since .* or is divided otherwise by now"):
        remembered(tmp_path, None, seed=other)

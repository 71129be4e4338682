"""Scores on their way into a folder: all of them arrive, whoever else writes there, and the folder says when."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from titans.cli.scores import Cell, Kept
from titans.report.results import Results, read_results, write_results
from titans.tasks.score import Score


def keep(folder: Path, model: str, lengths: int) -> None:
    kept = Kept(folder=folder, model=model, task="needles pk", command="titans eval needles")
    kept.begin()
    for length in range(1, lengths + 1):
        kept.add(Cell(depth=None, score=Score(length=length, samples=2, right=0.5, tokens_right=0.75)))


def test_several_may_write_at_once(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda model: keep(tmp_path, model, 8), "abcd"))
    cells = [(score.model, score.length) for score in read_results(tmp_path).scores]
    assert sorted(cells) == [(model, length) for model in "abcd" for length in range(1, 9)]


def test_the_folder_says_when_it_was_last_written(tmp_path):
    write_results(tmp_path, Results(title="of before", created="2001-01-01T00:00:00+00:00"))
    begun = datetime.now(UTC) - timedelta(seconds=1)
    keep(tmp_path, "a", 1)
    results = read_results(tmp_path)
    assert results.created is not None
    assert begun <= datetime.fromisoformat(results.created) <= datetime.now(UTC)
    assert results.title == "of before"

import pytest

from titans.bench import contest as module
from titans.bench.contest import Contest, hold, turns
from titans.bench.timing import Quartiles, quartiles

TIMES = {"one": [1.0, 2.0, 4.0], "two": [4.0, 2.0, 4.0], "matrix product": [0.5, 0.5, 1.0]}


@pytest.fixture
def measured(contest: Contest, progress, monkeypatch: pytest.MonkeyPatch):
    """The contest with times of our choice; the matrix product takes 400 operations."""
    monkeypatch.setattr(module, "matrix_products", lambda device, dtype: (400, lambda: None))
    monkeypatch.setattr(module, "in_turns", lambda works, rounds, tick: {name: TIMES[name] for name in works})
    with progress:
        return hold(contest, rounds=3, threads=1, peaks=False, progress=progress)


def test_ratios_are_of_times_of_the_same_round(measured):
    one, two, _ = measured.results
    assert one.tokens_per_second == quartiles([10, 5, 2.5])
    assert two.tokens_per_second == quartiles([5, 10, 5])
    assert one.speed == Quartiles(low=1, median=1, high=1)
    assert two.speed == quartiles([0.5, 2, 2])


def test_the_share_of_the_matrix_product(measured):
    one, two, _ = measured.results
    assert one.of_matrix_product == quartiles([100 / 1 / (400 / 0.5), 100 / 2 / (400 / 0.5), 100 / 4 / (400 / 1)])
    assert two.of_matrix_product is None
    assert measured.matrix_product_gflops == quartiles([800e-9, 800e-9, 400e-9])


def test_what_fails_is_reported_and_stops_nobody(measured):
    missing = measured.results[2]
    assert missing.problem == "ModuleNotFoundError: No module named 'fast'"
    assert missing.tokens_per_second is None
    assert measured.of("missing") is None
    assert measured.of("two").parameters == 7


def test_progress_counts_every_turn(contest: Contest, progress):
    with progress:
        hold(contest, rounds=3, threads=1, peaks=False, progress=progress)
    assert progress._done == turns(contest, 3) == (3 + 1) * 3 + 2 * 3

import tracemalloc

import numpy as np
import pytest

from titans.errors import TitansError
from titans.tasks import blocks
from titans.tasks.mad import FuzzyRecall, InContextRecall, noisy_recall
from titans.tasks.mqar import MQAR
from titans.tasks.sample import Piece, Sample, unasked
from titans.tasks.state_tracking import WordProblem, parity

TASKS = [
    MQAR(),
    InContextRecall(),
    noisy_recall(),
    FuzzyRecall(),
    parity(),
    WordProblem(group="S3", tokens_each=2),
]


def pieces(sample, size: int):
    for piece in sample.pieces(size):
        yield piece.tokens, piece.labels


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_a_long_sample_is_the_same_however_and_however_often_it_is_read(task, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 16)
    sample = task.sample(301, np.random.default_rng(0))
    whole = next(pieces(sample, 301))
    again = next(pieces(task.sample(301, np.random.default_rng(0)), 301))
    np.testing.assert_array_equal(again, whole)
    for size in (1, 50, 300):
        np.testing.assert_array_equal(np.concatenate([*map(np.stack, pieces(sample, size))], 1), whole)


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_parts_of_a_long_sample_are_read_in_any_order(task, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 16)
    for part in task.sample(301, np.random.default_rng(0)).parts:
        whole = part.read(0, len(part))
        for start in reversed(range(0, len(part), 9)):
            piece = part.read(start, min(start + 40, len(part)))
            np.testing.assert_array_equal(piece.tokens, whole.tokens[start : start + 40])
            np.testing.assert_array_equal(piece.labels, whole.labels[start : start + 40])


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_the_end_of_a_long_sample_can_be_read_first(task, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 16)
    whole = task.sample(301, np.random.default_rng(0)).whole()
    last = task.sample(301, np.random.default_rng(0)).parts[-1]
    piece = last.read(0, len(last))
    np.testing.assert_array_equal(piece.tokens, whole.tokens[-len(last) :])
    np.testing.assert_array_equal(piece.labels, whole.labels[-len(last) :])


@pytest.mark.parametrize("task", [InContextRecall(), noisy_recall(), parity(), WordProblem(group="S3")], ids=repr)
def test_what_is_too_long_to_be_made_can_be_begun(task):
    piece = next(task.sample(2**40, np.random.default_rng(0)).pieces(100))
    assert len(piece) == 100


def test_fuzzy_recall_has_a_limit():
    with pytest.raises(TitansError, match="at most 16,777,216 tokens"):
        FuzzyRecall().sample(2**40, np.random.default_rng(0))


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_a_long_sample_is_never_there_at_once(task):
    """Its 16 bytes a token would be 8.4 MB. Of a block there are about three, at 16 bytes for each of six tokens."""
    tracemalloc.start()
    try:
        sample = task.sample(524_288, np.random.default_rng(0))
        if not isinstance(task, MQAR):  # which draws the places of its queries all at once, and lets go of them
            assert tracemalloc.get_traced_memory()[1] < 6e6
        tracemalloc.reset_peak()
        assert sum(len(tokens) for tokens, _ in pieces(sample, 8192)) == 524_288
        assert tracemalloc.get_traced_memory()[1] < 6e6
    finally:
        tracemalloc.stop()


def test_read_in_order_each_block_is_made_once(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 16)
    made = []

    def numbers(before: int, count: int, _random: np.random.Generator) -> Piece:
        made.append(before)
        return unasked(np.arange(before, before + count))

    sample = Sample((blocks.in_blocks(numbers, 50, np.random.default_rng(0), width=1),))
    assert np.concatenate([tokens for tokens, _ in pieces(sample, 8)]).tolist() == list(range(50))
    assert made == [0, 16, 32, 48]

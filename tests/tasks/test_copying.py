import numpy as np
import pytest

from titans.data.batches import IGNORED
from titans.tasks.copying import BLANK, SelectiveCopying

TASK = SelectiveCopying(num_tokens=5)


@pytest.mark.parametrize("length", [10, 11, 64, 333])
def test_markers_ask_for_the_scattered_tokens_in_their_order(length):
    piece = TASK.sample(length, np.random.default_rng(length)).whole()
    before, end = piece.tokens[:-5], piece.tokens[-5:]
    assert (end == TASK.marker).all()
    assert piece.labels[-5:].tolist() == before[before != BLANK].tolist()
    assert (piece.labels[:-5] == IGNORED).all()


def test_tokens_lie_anywhere_and_are_neither_blank_nor_marker():
    random = np.random.default_rng(0)
    samples = np.stack([TASK.sample(25, random).whole().tokens[:20] for _ in range(2000)])
    assert ((samples != BLANK).sum(1) == 5).all()
    assert np.abs((samples != BLANK).mean(0) - 5 / 20).max() < 0.04
    assert set(np.unique(samples)) == set(range(15))
    assert np.abs(np.bincount(samples[samples != BLANK])[1:] / 10_000 - 1 / 14).max() < 0.01

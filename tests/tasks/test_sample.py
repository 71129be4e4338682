"""A sample is the same however it is cut into pieces."""

import numpy as np
import pytest

from titans.data.batches import IGNORED
from titans.tasks.filler import Repeated
from titans.tasks.sample import Sample, Stretch, joined, stated, unasked


@pytest.fixture
def sample():
    document = Repeated(np.arange(10, 17))
    middle = stated(np.array([1, 2, 3]), np.array([4, 5]))
    return Sample((Stretch(document, 3, 12), middle, Stretch(document, 5, 5), unasked(np.array([9, 8]))))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 15, 100])
def test_pieces_of_any_size_are_the_whole(sample, size):
    whole, pieces = sample.whole(), list(sample.pieces(size))
    assert len(whole) == len(sample) == 15
    assert [len(piece) for piece in pieces[:-1]] == [size] * (len(pieces) - 1)
    again = joined(pieces)
    assert np.array_equal(again.tokens, whole.tokens)
    assert np.array_equal(again.labels, whole.labels)
    assert whole.tokens.dtype == whole.labels.dtype == np.int64


def test_the_whole_is_its_parts_in_order(sample):
    assert sample.whole().tokens.tolist() == [13, 14, 15, 16, 10, 11, 12, 13, 14, 1, 2, 3, 4, 9, 8]


def test_every_token_of_a_stated_answer_is_the_label_of_the_one_before():
    piece = stated(np.array([1, 2, 3]), np.array([4, 5]))
    assert piece.tokens.tolist() == [1, 2, 3, 4]
    assert piece.labels.tolist() == [IGNORED, IGNORED, 4, 5]


def test_a_stretch_reads_no_more_than_is_asked_for():
    class Watched(Repeated):
        read = 0

        def tokens(self, start, stop):
            self.read += stop - start
            return super().tokens(start, stop)

    document = Watched(np.arange(5))
    pieces = Sample((Stretch(document, 0, 2_000_000),)).pieces(1000)
    next(pieces)
    assert document.read == 1000

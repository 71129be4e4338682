"""Stretches of documents."""

import numpy as np
import pytest

from titans.data.pieces import Encoded
from titans.tasks.filler import Filler, Repeated, split
from titans.tasks.sample import Sample


@pytest.mark.parametrize("length", [0, 1, 500, 2999, 9000])
def test_a_stretch_has_the_length_asked_for(documents, random, length):
    stretches = Filler(documents).stretch(length, random)
    assert sum(map(len, stretches)) == length
    assert all(0 <= s.start <= s.stop <= len(s.document) for s in stretches)


def test_every_place_of_every_document_comes_up(documents, random):
    filler, seen = Filler(documents), {document.name: set() for document in documents}
    for _ in range(3000):
        (stretch,) = filler.stretch(900, random)
        seen[stretch.document.name].add(stretch.start)
    assert max(seen["book 0"]) > 2000
    assert max(seen["book 1"]) == 100
    assert min(map(min, seen.values())) < 10


def test_nothing_to_hide_in():
    with pytest.raises(ValueError, match="at least one"):
        Filler([])


@pytest.mark.parametrize("at", [0, 1, 900, 2000, 3999, 4000])
def test_a_split_leaves_nothing_out(documents, random, at):
    stretches = Filler(documents).stretch(4000, random)
    before, after = split(stretches, at)
    assert sum(map(len, before)) == at
    assert all(len(s) for s in [*before, *after])
    whole = Sample(tuple(stretches)).whole().tokens
    assert np.array_equal(Sample((*before, *after)).whole().tokens, whole)


def test_a_repeated_document_goes_on_without_end():
    document = Repeated(np.array([7, 8, 9]))
    assert document.tokens(10**15, 10**15 + 4).tolist() == [8, 9, 7, 8]


def test_a_long_document_is_taken_more_often(random):
    short, long = Encoded("short", np.zeros(100, np.int64)), Encoded("long", np.zeros(900, np.int64))
    filler = Filler([short, long])
    taken = [filler.stretch(50, random)[0].document is long for _ in range(1000)]
    assert np.mean(taken) == pytest.approx(0.9, abs=0.04)

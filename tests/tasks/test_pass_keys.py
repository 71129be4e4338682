"""Pass keys: stated once, asked for at all distances."""

import re

import numpy as np
import pytest

from titans.data.batches import IGNORED
from titans.data.tokenizer import ByteTokenizer
from titans.errors import TitansError
from titans.tasks.filler import Filler
from titans.tasks.pass_keys import PassKeys

KEY = re.compile(r"\n#key:([0-9a-f]+)\n")


@pytest.fixture
def task(documents):
    return PassKeys(filler=Filler(documents))


def test_every_question_but_the_statement_is_asked(task, random):
    sizes = set()
    for length in (task.shortest, 100, 333, 2000):
        for _ in range(30):
            sample = task.sample(length, random)
            assert len(sample) == length
            piece = sample.whole()
            text = ByteTokenizer().decode(piece.tokens)
            keys = KEY.findall(text)
            assert len(keys) >= 2
            assert len(set(keys)) == 1
            asked = piece.labels != IGNORED
            size = len(keys[0])
            sizes.add(size)
            assert asked.sum() == size * (len(keys) - 1)
            assert np.array_equal(piece.labels[:-1][asked[:-1]], piece.tokens[1:][asked[:-1]])
            assert not asked[: text.index(keys[0]) + size].any()
    assert (min(sizes), max(sizes)) == (4, 32)


def test_far_questions_come_up_as_near_ones_do(task, random):
    gaps = []
    for _ in range(200):
        text = ByteTokenizer().decode(task.sample(4096, random).whole().tokens)
        places = [match.start() for match in KEY.finditer(text)]
        gaps += np.diff(places).tolist()
    octaves = np.bincount(np.log2(gaps).astype(int), minlength=12)
    assert (octaves[4:11] > 50).all()
    assert max(gaps) > 2048


def test_too_short(task, random):
    with pytest.raises(TitansError, match="10 tokens are too few to state a pass key and ask for it: 78 do"):
        task.sample(10, random)


def test_the_key_is_stated_in_the_first_quarter(task, random):
    places = [task.sample(1000, random).whole().tokens.tobytes().find(b"#\0") // 8 for _ in range(200)]
    assert max(places) <= 250
    assert np.histogram(places, 4, (0, 250))[0].min() > 20

import numpy as np
import pytest

from titans.data.batches import IGNORED
from titans.tasks.mqar import MQAR

pytestmark = pytest.mark.usefixtures("whole_and_in_blocks")


def read(task: MQAR, length: int, seed: int = 0):
    piece = task.sample(length, np.random.default_rng(seed)).whole()
    return piece.tokens, piece.labels


def places(task: MQAR, length: int, samples: int) -> np.ndarray:
    """Of each pair, how many pairs of tokens after the last one its key is asked for [samples, num_pairs]."""
    found = np.empty((samples, task.num_pairs), int)
    for seed in range(samples):
        tokens, labels = read(task, length, seed)
        for number, key in enumerate(tokens[0 : 2 * task.num_pairs : 2]):
            asked = np.flatnonzero((tokens == key) & (labels != IGNORED))
            found[seed, number] = (asked[0] - 2 * task.num_pairs) // 2
    return found


@pytest.mark.parametrize("random_filler", [True, False])
@pytest.mark.parametrize("length", [32, 33, 200])
def test_each_key_is_asked_for_once_and_its_value_is_the_label(length, random_filler):
    task = MQAR(vocab_size=64, num_pairs=8, random_filler=random_filler)
    tokens, labels = read(task, length)
    keys, values = tokens[0:16:2], tokens[1:16:2]
    value_of = dict(zip(keys.tolist(), values.tolist(), strict=True))
    asked = np.flatnonzero(labels != IGNORED)
    assert sorted(tokens[asked]) == sorted(keys)
    assert (asked >= 16).all()
    assert (asked % 2 == 0).all()
    assert [value_of[int(key)] for key in tokens[asked]] == labels[asked].tolist()


def test_keys_and_values_are_distinct_and_from_halves_of_the_vocabulary_that_do_not_meet():
    task = MQAR(vocab_size=11, num_pairs=4)
    seen_keys, seen_values = set(), set()
    for seed in range(50):
        tokens, _ = read(task, 16, seed)
        keys, values = set(tokens[0:8:2].tolist()), set(tokens[1:8:2].tolist())
        assert len(keys) == len(values) == 4
        seen_keys |= keys
        seen_values |= values
    assert seen_keys == {1, 2, 3, 4}
    assert seen_values == {5, 6, 7, 8, 9, 10}


def test_filler_is_random_or_zero():
    for random_filler in (True, False):
        tokens, labels = read(MQAR(random_filler=random_filler), 200)
        filler = tokens[16:][labels[16:] == IGNORED]
        assert len(filler) == 200 - 16 - 8
        assert (len(np.unique(filler)) > 150) is random_filler
        assert (filler == 0).all() is np.bool_(not random_filler)


def test_queries_follow_the_power_law():
    """With one pair the places are drawn independently, and their shares are known."""
    found = places(MQAR(num_pairs=1, power_a=0.01), 42, 2000)
    shares = np.bincount(found[:, 0], minlength=20) / 2000
    expected = np.arange(1, 21) ** -0.99
    assert np.abs(shares - expected / expected.sum()).max() < 0.03


def test_at_one_all_places_are_equal():
    found = places(MQAR(num_pairs=1, power_a=1.0), 42, 2000)
    assert np.abs(np.bincount(found[:, 0], minlength=20) / 2000 - 0.05).max() < 0.02


def test_what_was_stated_first_tends_to_be_asked_first():
    """As in Zoology, whose places are drawn for one key after the other."""
    means = places(MQAR(num_pairs=8), 200, 400).mean(0)
    assert means[0] < means[3] < means[7]

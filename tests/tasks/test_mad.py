import numpy as np
import pytest

from titans.data.batches import IGNORED
from titans.tasks.mad import FuzzyRecall, InContextRecall, noisy_recall

pytestmark = pytest.mark.usefixtures("whole_and_in_blocks")


def read(task, length: int, seed: int = 0) -> tuple[list[int], list[int]]:
    piece = task.sample(length, np.random.default_rng(seed)).whole()
    return piece.tokens.tolist(), piece.labels.tolist()


def answers_by_reading(tokens: list[int], num_keys: int, num_known: int) -> list[int]:
    """Labels of a stream of single keys and values, with noise, by remembering what has been said."""
    said, labels = {}, []
    for place, token in enumerate(tokens):
        labels.append(said.get(token, IGNORED) if token < num_keys else IGNORED)
        if token < num_keys and place + 1 < len(tokens):
            value = tokens[place + 1]
            assert num_keys <= value < num_known
            assert said.setdefault(token, value) == value
    return labels


@pytest.mark.parametrize("task", [InContextRecall(), noisy_recall(), InContextRecall(vocab_size=7)], ids=repr)
@pytest.mark.parametrize("length", [3, 4, 5, 63, 64, 127])
def test_a_key_that_came_before_asks_for_its_value(task, length):
    num_known = task.vocab_size - task.noise_vocab_size
    for seed in range(20):
        tokens, labels = read(task, length, seed)
        assert labels == answers_by_reading(tokens, num_known // 2, num_known)
        assert labels[(length - 1) // 2 * 2] != IGNORED


def test_keys_have_other_values_in_another_sample():
    values = {tuple(sorted(set(zip(*read(InContextRecall(), 127, seed), strict=True)))) for seed in range(5)}
    assert len(values) == 5


def test_a_fifth_of_the_pairs_is_noise():
    random, task = np.random.default_rng(0), noisy_recall()
    pairs = np.concatenate([task.sample(128, random).whole().tokens.reshape(-1, 2) for _ in range(200)])
    noise = pairs >= 16
    assert (noise[:, 0] == noise[:, 1]).all()
    assert noise[:, 0].mean() == pytest.approx(0.2 * 62 / 64, abs=0.01)
    assert set(np.unique(pairs[noise])) == set(range(16, 32))


def test_with_much_noise_there_is_still_a_pair_to_ask_for():
    task = InContextRecall(vocab_size=5, noise_vocab_size=1, noise=0.999)
    places = []
    for seed in range(50):
        tokens, labels = read(task, 41, seed)
        assert tokens.count(tokens[-1]) >= 2
        assert labels[-1] == tokens[tokens.index(tokens[-1]) + 1]
        places.append(tokens.index(tokens[-1]))
    assert len(set(places)) > 10  # not always the same place


def motifs(tokens: list[int], num_keys: int) -> list[list[int]]:
    """Keys and values in turn."""
    found: list[list[int]] = []
    for token in tokens:
        if not found or (token < num_keys) != (found[-1][0] < num_keys):
            found.append([])
        found[-1].append(token)
    return found


@pytest.mark.parametrize(
    "task", [FuzzyRecall(), FuzzyRecall(shortest_key=3), FuzzyRecall(vocab_size=9, longest_key=2)], ids=repr
)
@pytest.mark.parametrize("length", [11, 12, 50, 127])
def test_a_fuzzy_key_that_came_before_asks_for_all_of_its_value(task, length):
    padding, num_keys = task.vocab_size - 1, (task.vocab_size - 1) // 2
    for seed in range(20):
        tokens, labels = read(task, length, seed)
        stream = [*tokens, labels[-1]]  # the last token of the last answer is only a label
        start = next(place for place, token in enumerate(stream) if token != padding)
        assert padding not in stream[start:]
        assert start < 2 * (task.longest_key + task.longest_value)
        said, expected = {}, [IGNORED] * start
        found = motifs(stream[start:], num_keys)
        for key, value in zip(found[0::2], found[1::2], strict=True):
            assert len(set(key)) == len(key)
            assert len(set(value)) == len(value)
            assert task.shortest_key <= len(key) <= task.longest_key
            assert len(value) <= task.longest_value
            again = tuple(key) in said
            assert said.setdefault(tuple(key), value) == value
            expected += [IGNORED] * len(key) + (value if again else [IGNORED] * len(value))
        assert again
        assert labels == expected[1:]


def test_fuzzy_keys_and_values_have_all_sizes_and_tokens():
    sizes, firsts = [], []
    for seed in range(100):
        tokens, labels = read(FuzzyRecall(), 127, seed)
        stream = [token for token in [*tokens, labels[-1]] if token != 15]
        found = motifs(stream, 7)
        sizes += [(len(key), len(value)) for key, value in zip(found[0::2], found[1::2], strict=True)]
        firsts += [(key[-1], value[-1]) for key, value in zip(found[0::2], found[1::2], strict=True)]
    for size in (1, 2, 3):
        assert np.mean([key == size for key, _ in sizes]) == pytest.approx(1 / 3, abs=0.05)
        assert np.mean([value == size for _, value in sizes]) == pytest.approx(1 / 3, abs=0.05)
    keys, values = (np.bincount(tokens) / len(firsts) for tokens in zip(*firsts, strict=True))
    assert np.abs(keys - 1 / 7).max() < 0.03
    assert np.abs(values[7:] - 1 / 8).max() < 0.03


@pytest.mark.parametrize(("task", "num_keys"), [(InContextRecall(), 8), (FuzzyRecall(longest_key=1), 7)], ids=repr)
def test_the_last_question_is_about_any_key_that_was_said(task, num_keys):
    asked, ranks = [], []
    for seed in range(150):
        keys = [token for token in read(task, 300, seed)[0] if token < num_keys]
        asked.append(keys[-1])
        ranks.append(list(dict.fromkeys(keys)).index(keys[-1]))  # how many were said before it
    for found in (asked, ranks):
        assert np.bincount(found, minlength=num_keys).min() > 5

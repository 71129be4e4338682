"""What every synthetic task has to do: samples of exactly the length, ids of the vocabulary, one line when refused."""

import tracemalloc

import numpy as np
import pytest

from titans.data.batches import IGNORED
from titans.errors import TitansError
from titans.tasks.batches import Lengths, SampleBatches
from titans.tasks.copying import SelectiveCopying
from titans.tasks.mad import FuzzyRecall, InContextRecall, noisy_recall
from titans.tasks.mqar import MQAR
from titans.tasks.state_tracking import ModularCounting, WordProblem, parity

TASKS = [
    MQAR(),
    MQAR(vocab_size=5, num_pairs=1),
    SelectiveCopying(),
    SelectiveCopying(vocab_size=3, num_tokens=1),
    InContextRecall(),
    InContextRecall(vocab_size=2),
    InContextRecall(vocab_size=3, noise_vocab_size=1, noise=0.99),
    noisy_recall(),
    FuzzyRecall(),
    FuzzyRecall(shortest_key=3),
    FuzzyRecall(vocab_size=3, longest_key=1, longest_value=1),
    WordProblem(group="S3"),
    WordProblem(group="A5"),
    WordProblem(),
    ModularCounting(),
    parity(),
]


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_samples_have_exactly_their_length_and_ids_of_the_vocabulary(task):
    random = np.random.default_rng(0)
    for length in [*range(task.shortest, task.shortest + 20), 97, 512]:
        sample = task.sample(max(length, task.shortest), random)
        piece = sample.whole()
        assert len(sample) == len(piece.tokens) == len(piece.labels) == max(length, task.shortest)
        assert piece.tokens.dtype == piece.labels.dtype == np.int64
        answers = piece.labels[piece.labels != IGNORED]
        assert len(answers)
        for ids in (piece.tokens, answers):
            assert ids.min() >= 0
            assert ids.max() < task.vocab_size


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_samples_depend_on_the_seed_alone(task):
    one, again, other = (task.sample(200, np.random.default_rng(seed)).whole() for seed in (1, 1, 2))
    assert np.array_equal(one.tokens, again.tokens)
    assert np.array_equal(one.labels, again.labels)
    if task.vocab_size > 3:
        assert not np.array_equal(one.tokens, other.tokens)


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_too_short_a_sample_is_refused_in_one_line(task):
    expected = (
        f"^{task.shortest - 1} tokens are too few for a sample of {type(task).__name__}: it takes {task.shortest}$"
    )
    with pytest.raises(TitansError, match=expected):
        task.sample(task.shortest - 1, np.random.default_rng(0))


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_samples_make_batches_to_train_on(task):
    batch = SampleBatches(task, Lengths(shortest=task.shortest, longest=100), batch_size=2, window=128).next()
    assert batch.tokens.shape == batch.labels.shape
    assert (batch.labels != IGNORED).any(1).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MQAR(vocab_size=3), "MQAR.vocab_size is 3; it must be at least 4"),
        (lambda: MQAR(vocab_size=8, num_pairs=4), "MQAR.num_pairs is 4; it must be from 1 to 3"),
        (lambda: MQAR(num_pairs=0), "MQAR.num_pairs is 0; it must be from 1 to 4095"),
        (lambda: MQAR(power_a=0.0), "MQAR.power_a is 0.0; it must be above 0 and at most 1"),
        (lambda: MQAR(power_a=1.5), "MQAR.power_a is 1.5; it must be above 0 and at most 1"),
        (lambda: SelectiveCopying(vocab_size=2), "SelectiveCopying.vocab_size is 2; it must be at least 3"),
        (lambda: SelectiveCopying(num_tokens=0), "SelectiveCopying.num_tokens is 0; it must be at least 1"),
        (lambda: InContextRecall(noise=1.0), "InContextRecall.noise is 1.0; it must be at least 0 and below 1"),
        (lambda: InContextRecall(noise=0.1), "InContextRecall.noise_vocab_size is 0; it must be at least 1"),
        (lambda: InContextRecall(noise_vocab_size=-1), "InContextRecall.noise_vocab_size is -1; it must be at least 0"),
        (lambda: InContextRecall(noise_vocab_size=15), "InContextRecall.vocab_size is 16; it must be at least 17"),
        (lambda: FuzzyRecall(vocab_size=2), "FuzzyRecall.vocab_size is 2; it must be at least 3"),
        (lambda: FuzzyRecall(vocab_size=6), "FuzzyRecall.longest_key is 3; it must be from 1 to 2"),
        (lambda: FuzzyRecall(longest_value=9), "FuzzyRecall.longest_value is 9; it must be from 1 to 8"),
        (lambda: FuzzyRecall(shortest_key=4), "FuzzyRecall.shortest_key is 4; it must be from 1 to longest_key = 3"),
        (lambda: WordProblem(group="S4"), "WordProblem.group should be one of S3, A5, S5, not 'S4'"),
        (lambda: ModularCounting(modulus=1), "ModularCounting.modulus is 1; it must be at least 2"),
        (lambda: ModularCounting(modulus=2.0), "ModularCounting.modulus should be a whole number"),
    ],
)
def test_impossible_settings_name_field_value_and_remedy(make, message):
    with pytest.raises(ValueError, match=f"^{message}") as refused:
        make()
    assert "\n" not in str(refused.value)


LONG = [WordProblem(group="A5"), WordProblem(group="S3", tokens_each=2), ModularCounting(), SelectiveCopying()]


@pytest.mark.parametrize("task", LONG, ids=repr)
def test_a_long_sample_is_made_as_it_is_read(task):
    length = 1_000_001
    tracemalloc.start()
    sample = task.sample(length, np.random.default_rng(0))
    sizes = [len(piece) for piece in sample.pieces(5000)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(sizes) == len(sample) == length
    assert set(sizes[:-1]) == {5000}
    assert peak < 16_000_000  # a block, of which lists are made; the tokens and labels of all of it are as much


@pytest.mark.parametrize("task", LONG[:3], ids=repr)
def test_the_blocks_of_a_long_word_are_one_word(task):
    length = 3 * 65_536 * task.tokens_each - 7
    sample = task.sample(length, np.random.default_rng(0))
    whole = sample.whole()
    for size in (1000, 65_536, 65_537, 150_000):
        pieces = list(sample.pieces(size))
        for name in ("tokens", "labels"):
            assert np.array_equal(np.concatenate([getattr(piece, name) for piece in pieces]), getattr(whole, name))
    told = whole.tokens[:: task.tokens_each][: length // task.tokens_each]
    assert np.array_equal(whole.labels[whole.labels != IGNORED], task.products(0, told))
    assert not np.array_equal(whole.tokens[:65_536], whole.tokens[65_536 * task.tokens_each :][:65_536])
    (part,) = sample.parts
    (fresh,) = task.sample(length, np.random.default_rng(0)).parts  # whose first blocks nobody has read
    place = slice(2 * 65_536 * task.tokens_each + 5, 2 * 65_536 * task.tokens_each + 15)
    for unread in (fresh, part):
        for where in (place, slice(65_530, 65_540)):
            assert np.array_equal(unread.read(where.start, where.stop).tokens, whole.tokens[where])
            assert np.array_equal(unread.read(where.start, where.stop).labels, whole.labels[where])

"""Samples as batches."""

import numpy as np
import pytest
import torch

from titans.data.batches import IGNORED
from titans.tasks.batches import InStages, Lengths, SampleBatches
from titans.tasks.needles import needles


@pytest.fixture
def new_batches(documents):
    def make(shortest=500, longest=2000, *, rows=2, window=512, seed=0, text_weight=0.0):
        lengths = Lengths(shortest=shortest, longest=longest)
        return SampleBatches(needles("n", documents), lengths, rows, window, seed, text_weight=text_weight)

    return make


def groups(batches, count):
    """The batches of each of the first groups."""
    found = []
    while len(found) <= count:
        batch = batches.next()
        if batch.reset[:, 0].all():
            found.append([])
        found[-1].append(batch)
    return found[:count]


def test_a_group_is_whole_samples_of_one_length(new_batches):
    for group in groups(new_batches(), 10):
        tokens = torch.cat([batch.tokens for batch in group], 1)
        labels = torch.cat([batch.labels for batch in group], 1)
        assert 500 <= tokens.shape[1] <= 2000
        assert ((labels != IGNORED).sum(1) == 9).all()
        assert all(bytes(row.tolist()).startswith(b"A special magic number") for row in tokens)
        assert all(batch.tokens.shape[1] == 512 for batch in group[:-1])
        resets = torch.cat([batch.reset for batch in group], 1)
        assert resets[:, 0].all()
        assert not resets[:, 1:].any()


def test_short_samples_come_in_more_rows(new_batches):
    batches = new_batches(400, 400, window=2048)
    assert batches.next().tokens.shape == (2 * 2048 // 400, 400)


def test_lengths_are_even_over_octaves(random):
    lengths = Lengths(shortest=64, longest=1024)
    drawn = np.array([lengths.draw(random) for _ in range(4000)])
    assert drawn.min() >= 64
    assert drawn.max() <= 1024
    octaves = np.floor(np.log2(drawn / 64)).clip(max=3)
    assert all(abs((octaves == n).mean() - 0.25) < 0.03 for n in range(4))


def test_a_window_that_is_too_short_for_a_sample_is_named():
    with pytest.raises(ValueError, match=r"Lengths.longest is 16; it must be at least 35, the shortest sample's"):
        Lengths(shortest=35, longest=16)


def test_with_a_text_weight_every_token_has_a_label(new_batches):
    plain, weighted = new_batches(1200, 1200), new_batches(1200, 1200, text_weight=0.1)
    tokens = torch.cat([plain.next().tokens for _ in range(3)], 1)
    for number in range(3):
        batch = weighted.next()
        start = 512 * number
        following = tokens[:, start + 1 : start + 513]
        assert torch.equal(batch.labels[:, : following.shape[1]], following)
        answers = batch.weights == 1
        assert answers.sum() == (18 if number == 2 else 0)
        assert torch.equal(batch.weights[~answers], torch.full_like(batch.weights[~answers], 0.1))


def test_goes_on_from_anywhere(new_batches):
    for count in (0, 1, 2, 5, 9):
        batches, again = new_batches(), new_batches()
        for _ in range(count):
            batches.next()
        again.load_state_dict(batches.state_dict())
        for _ in range(6):
            one, two = batches.next(), again.next()
            assert torch.equal(one.tokens, two.tokens)
            assert torch.equal(one.labels, two.labels)
            assert torch.equal(one.reset, two.reset)


def test_the_seed_decides(new_batches):
    one, same, other = (new_batches(600, 600, seed=seed).next().tokens for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_count_is_what_comes(new_batches):
    for batches, sizes in (
        (lambda: new_batches(), (1, 2, 5, 30)),
        (lambda: stages(new_batches), (1, 2, 3, 4, 9)),
    ):
        for size in sizes:
            source = batches()
            assert source.count(size) == sum(source.next().tokens.numel() for _ in range(size))


def stages(new_batches):
    return InStages(
        [(new_batches(600, 600), 2), (new_batches(700, 900, seed=1), 1), (new_batches(800, 800, seed=2), 0)]
    )


def test_one_stage_after_the_other(new_batches):
    source = stages(new_batches)
    alone = [new_batches(600, 600), new_batches(700, 900, seed=1), new_batches(800, 800, seed=2)]
    for number in (0, 0, 1, 2, 2, 2, 2):
        assert torch.equal(source.next().tokens, alone[number].next().tokens)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 6])
def test_stages_go_on_from_anywhere(count, new_batches):
    source, again = stages(new_batches), stages(new_batches)
    for _ in range(count):
        source.next()
    again.load_state_dict(source.state_dict())
    for _ in range(4):
        assert torch.equal(source.next().tokens, again.next().tokens)

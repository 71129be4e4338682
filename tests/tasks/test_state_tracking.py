import math
from functools import partial

import numpy as np
import pytest

from titans.errors import TitansError
from titans.tasks.state_tracking import ModularCounting, WordProblem, elements, parity

GROUPS = {"S3": (3, 6), "A5": (5, 60), "S5": (5, 120)}


pytestmark = pytest.mark.usefixtures("whole_and_in_blocks")


def read(task, length: int, seed: int = 0) -> tuple[list[int], list[int]]:
    piece = task.sample(length, np.random.default_rng(seed)).whole()
    return piece.tokens.tolist(), piece.labels.tolist()


def moved(arrangement: str, permutation: np.ndarray) -> str:
    """Things after each has gone from its place i to place permutation[i]."""
    after = [""] * len(arrangement)
    for place, thing in enumerate(arrangement):
        after[permutation[place]] = thing
    return "".join(after)


def order(permutation: np.ndarray) -> int:
    """How often a permutation has to be repeated until everything is where it was."""
    start = "abcde"[: len(permutation)]
    now, times = moved(start, permutation), 1
    while now != start:
        now, times = moved(now, permutation), times + 1
    return times


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("length", [1, 2, 64, 600])
def test_labels_move_things_to_where_one_token_after_the_other_moves_them(group, length):
    tokens, labels = read(WordProblem(group=group), length)
    start = "abcde"[: GROUPS[group][0]]
    now = start
    for token, label in zip(tokens, labels, strict=True):
        now = moved(now, elements(group)[token])
        assert moved(start, elements(group)[label]) == now


def test_two_permutations_whose_order_matters():
    """First 0 and 1 change places, then 1 and 2: the thing in place 0 ends in place 2."""
    names = [tuple(p) for p in elements("S3").tolist()]
    task, random = WordProblem(group="S3"), np.random.default_rng(0)
    wanted = [names.index((1, 0, 2)), names.index((0, 2, 1))]
    pieces = (task.sample(2, random).whole() for _ in range(1000))
    piece = next(piece for piece in pieces if piece.tokens.tolist() == wanted)
    assert names[piece.labels[1]] == (2, 0, 1)


@pytest.mark.parametrize("group", GROUPS)
def test_elements_are_the_group_in_lexicographic_order_with_the_identity_first(group):
    size, count = GROUPS[group]
    names = [tuple(p) for p in elements(group).tolist()]
    assert names[0] == tuple(range(size))
    assert names == sorted(set(names))
    assert len(names) == WordProblem(group=group).vocab_size == count


def test_a5_has_the_even_permutations():
    """Their orders tell A5 from any other 60 permutations: 15 double swaps, 20 three-cycles, 24 five-cycles."""
    orders = [order(p) for p in elements("A5")]
    assert [orders.count(n) for n in (1, 2, 3, 4, 5, 6)] == [1, 15, 20, 0, 24, 0]
    assert all(round(np.linalg.det(np.eye(5)[p])) == 1 for p in elements("A5"))


@pytest.mark.parametrize("task", [WordProblem(group="S3"), ModularCounting(), parity()], ids=repr)
def test_tokens_and_labels_are_all_equally_likely(task):
    for ids in read(task, 6000):
        assert np.abs(np.bincount(ids) / 6000 - 1 / task.vocab_size).max() < 0.03


@pytest.mark.parametrize("modulus", [2, 3, 5, 1000])
def test_counting_gives_the_sum_so_far(modulus):
    tokens, labels = read(ModularCounting(modulus=modulus), 300)
    assert labels == [math.fsum(tokens[: place + 1]) % modulus for place in range(300)]


def test_parity_is_whether_the_ones_so_far_are_odd():
    tokens, labels = read(parity(), 100)
    assert labels == [tokens[: place + 1].count(1) % 2 for place in range(100)]


@pytest.mark.parametrize("length", [3, 6, 7, 8])
@pytest.mark.parametrize("make", [partial(WordProblem, group="S3"), ModularCounting], ids=["S3", "mod5"])
def test_an_element_in_several_tokens_is_asked_for_after_the_last(make, length):
    whole, parts = make(), make(tokens_each=3)
    tokens, labels = read(parts, length)
    size, told = whole.vocab_size, -(-length // 3)
    assert parts.vocab_size == 3 * size
    names, products = read(whole, told)
    assert tokens == [name + size * part for name in names for part in range(3)][:length]
    assert labels == [product if part == 2 else -100 for product in products for part in range(3)][:length]


def test_too_short_for_an_element():
    with pytest.raises(TitansError, match="takes 2"):
        read(ModularCounting(tokens_each=2), 1)

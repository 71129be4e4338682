from itertools import pairwise

import pytest

from titans.training.config import TrainConfig
from titans.training.schedule import gate_penalty, learning_rate


def test_the_rate_rises_evenly_and_falls_along_a_cosine() -> None:
    config = TrainConfig(steps=110, warmup_steps=10, learning_rate=2.0, final_lr_fraction=0.1)
    rates = [learning_rate(step, config) for step in range(1, 111)]
    assert rates[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert rates[59] == pytest.approx((2.0 + 0.2) / 2)  # half way down
    assert rates[-1] == pytest.approx(0.2)
    assert all(later < earlier for earlier, later in pairwise(rates[9:]))


@pytest.mark.parametrize("warmup", [None, 0, 3])
def test_short_runs_have_a_rate_at_every_step(warmup: int | None) -> None:
    config = TrainConfig(steps=3, warmup_steps=warmup, learning_rate=1.0)
    assert all(0 < learning_rate(step, config) <= 1 for step in (1, 2, 3))


def test_the_warm_up_is_a_twentieth_unless_given() -> None:
    assert learning_rate(50, TrainConfig(steps=1000, learning_rate=1.0)) == 1.0
    assert learning_rate(49, TrainConfig(steps=1000, learning_rate=1.0)) == pytest.approx(0.98)
    assert learning_rate(1000, TrainConfig(steps=100_000, learning_rate=1.0)) == 1.0


def test_the_price_on_gates_rises_evenly_and_stays() -> None:
    config = TrainConfig(steps=10, gate_penalty=0.3, penalty_warmup_steps=4)
    assert [gate_penalty(step, config) for step in (1, 2, 4, 5, 10)] == pytest.approx([0.075, 0.15, 0.3, 0.3, 0.3])
    assert gate_penalty(1, TrainConfig(gate_penalty=0.3)) == 0.3

import pytest

from titans.bench import timing
from titans.bench.timing import Quartiles, in_turns, quartiles


def test_quartiles_are_those_of_the_values():
    assert quartiles([5, 1, 3, 2, 4]) == Quartiles(low=2, median=3, high=4)
    assert quartiles([1, 2]) == Quartiles(low=1.25, median=1.5, high=1.75)
    assert quartiles([3]) == Quartiles(low=3, median=3, high=3)


def test_works_take_turns_and_each_gets_its_own_time(monkeypatch: pytest.MonkeyPatch):
    clock, order, ticks = [0.0], [], []

    def work(name: str, seconds: float):
        def run() -> None:
            order.append(name)
            clock[0] += seconds

        return run

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    seconds = in_turns({"a": work("a", 1.0), "b": work("b", 2.0)}, 3, lambda: ticks.append(1))
    assert order == ["a", "b"] * 3
    assert seconds == {"a": [1.0] * 3, "b": [2.0] * 3}
    assert len(ticks) == 6

import io

import pytest

from titans.training import progress as module
from titans.training.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """A clock that the test sets."""

    class Clock:
        now = 100.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_away_from_a_terminal_a_line_appears_every_few_seconds(clock) -> None:
    out = io.StringIO()
    with Progress("train", total=100_000, unit="tokens", stream=out) as progress:
        for _ in range(25):
            clock.now += 1
            progress.advance(2000, loss=2.5)
    lines = out.getvalue().splitlines()
    assert lines[0] == "train  10,000/100,000 tokens  10%  2.0k tokens/s  0:00:45 left  loss 2.5"
    assert len(lines) == 5  # the last one stands for the end too
    assert "\x1b" not in out.getvalue()


def test_earlier_work_counts_towards_the_total_and_not_the_rate(clock) -> None:
    out = io.StringIO()
    with Progress("train", total=10_000, unit="tokens", stream=out) as progress:
        progress.skip(8000)
        clock.now += 10
        progress.advance(1000)
    assert out.getvalue().splitlines()[0] == "train  9,000/10,000 tokens  90%  100.0 tokens/s  0:00:10 left"


def test_without_a_total_there_is_a_rate(clock) -> None:
    out = io.StringIO()
    with Progress("read", unit="files", stream=out) as progress:
        clock.now += 3
        progress.advance(3)
    assert out.getvalue() == "read  3 files  1.0 files/s\n"


def test_nothing_done_says_nothing() -> None:
    out = io.StringIO()
    with Progress("train", total=10, stream=out):
        pass
    assert out.getvalue() == ""


def test_on_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    out = Terminal()
    with Progress("train", total=10, unit="steps", stream=out) as progress:
        progress.advance(10, loss=1.0)
    assert "10/10 steps" in out.getvalue()
    assert "━" in out.getvalue()

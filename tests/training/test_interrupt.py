import io
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from titans.training.interrupt import catch_interrupt, hold_interrupts


def test_the_first_ctrl_c_is_a_request_and_the_second_stops() -> None:
    before = signal.getsignal(signal.SIGINT)
    with catch_interrupt() as interrupt:
        assert not interrupt.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_is_heard_while_something_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Interrupted(io.FileIO):
        def write(self, data, /) -> int:
            if b"progress" in bytes(data):
                os.kill(os.getpid(), signal.SIGINT)
            return super().write(data)

    written = io.BufferedWriter(Interrupted(tmp_path / "stderr", "w"))
    with io.TextIOWrapper(written, "utf-8", line_buffering=True) as stderr, catch_interrupt() as interrupt:
        monkeypatch.setattr(sys, "stderr", stderr)
        print("progress", file=sys.stderr)
        assert interrupt.requested
    lines = (tmp_path / "stderr").read_text().split("\n")
    assert sorted(lines) == ["", "", "finishing the step and saving; Ctrl-C again stops at once", "progress"]


def test_held_interrupts_are_heard_afterwards() -> None:
    done = False
    with pytest.raises(KeyboardInterrupt), hold_interrupts():  # noqa: PT012
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # another thread might be late to hear it
        done = True
    assert done


def test_other_threads_may_train_too() -> None:
    requested = []

    def work() -> None:
        with catch_interrupt() as interrupt:
            requested.append(interrupt.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert requested == [False]

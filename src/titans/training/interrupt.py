"""Ctrl-C as a request: the step under way is finished first. And work that it must not interrupt."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """Whether the user has asked to stop."""

    requested = False


@contextmanager
def hold_interrupts() -> Iterator[None]:
    """Ctrl-C and SIGTERM are heard only when the work inside is done; processes begun inside never hear Ctrl-C.

    Blocking them is for those processes, which inherit it; here any other thread may still receive them. For the main
    thread.
    """
    held = {signal.SIGINT, signal.SIGTERM}
    heard: list[int] = []
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    handlers = {number: signal.signal(number, lambda number, _: heard.append(number)) for number in held}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number in heard[:1]:
            signal.raise_signal(number)


@contextmanager
def catch_interrupt() -> Iterator[Interrupt]:
    """The first Ctrl-C sets `requested`; the second one stops at once. Outside the main thread nothing is caught."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = signal.getsignal(signal.SIGINT)
    said = "\nfinishing the step and saving; Ctrl-C again stops at once"

    def request(_number: int, _frame: FrameType | None) -> None:
        interrupt.requested = True
        signal.signal(signal.SIGINT, before)
        try:
            print(said, file=sys.stderr, flush=True)
        except RuntimeError:  # something is being written there at this moment
            os.write(sys.stderr.fileno(), f"{said}\n".encode())

    signal.signal(signal.SIGINT, request)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)

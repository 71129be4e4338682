import os
import signal
import threading

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

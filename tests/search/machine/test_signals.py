"""Handlers of SIGINT and SIGTERM: ignored, kept and put back."""

from __future__ import annotations

import os
import signal
import threading
import time

from search.machine.signals import handle_signals, ignore_signals, keep_handlers


def test_signals_wait_while_something_must_not_be_left_half_done() -> None:
    received = list[int]()
    with handle_signals(lambda number, frame: received.append(number)):
        with ignore_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
        assert received == []
        with keep_handlers():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as a library does
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert received == [signal.SIGTERM]
    entered = threading.Event()

    def in_another_thread() -> None:
        with handle_signals(lambda number, frame: None), keep_handlers(), ignore_signals():
            entered.set()

    thread = threading.Thread(target=in_another_thread)
    thread.start()
    thread.join()
    assert entered.is_set()

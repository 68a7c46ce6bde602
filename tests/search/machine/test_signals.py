"""Handlers of SIGINT and SIGTERM: ignored, kept and put back."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable

import pytest

from search.dispatch.attempts import AttemptLog
from search.engine.stopping import StopSignals, stop_signals
from search.machine.signals import (
    RAISED_AGAIN_AFTER,
    handle_signals,
    ignore_signals,
    interrupt_on_signals,
    keep_handlers,
)


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


class Finalized:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


class Referred:
    """Weak references can be made to it."""


def drop_finalized() -> None:
    Finalized()


def drop_referred() -> None:
    referred = Referred()
    reference = weakref.ref(referred, lambda _: signal.raise_signal(signal.SIGTERM))
    del referred
    assert reference() is None


@pytest.mark.parametrize("drop", [drop_finalized, drop_referred])
def test_an_interrupt_that_python_drops_comes_again(
    drop: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    hook, handler = sys.unraisablehook, signal.getsignal(signal.SIGTERM)
    dropped = []

    def work_on() -> None:
        with interrupt_on_signals():
            drop()
            dropped.append(True)
            busy_for(60)

    with pytest.raises(KeyboardInterrupt):
        work_on()
    assert dropped == [True]
    assert (sys.unraisablehook, signal.getsignal(signal.SIGTERM)) == (hook, handler)
    assert capsys.readouterr().err == ""


def test_a_dropped_interrupt_waits_until_it_is_welcome(capsys: pytest.CaptureFixture[str]) -> None:
    """Not where signals are ignored (the removal of a folder), nor after the engine has stopped judging."""
    done = []

    def work_on() -> None:
        with interrupt_on_signals():
            drop_finalized()
            with ignore_signals():
                busy_for(6 * RAISED_AGAIN_AFTER)
            done.append("ignoring")
            busy_for(60)

    with pytest.raises(KeyboardInterrupt):
        work_on()
    with interrupt_on_signals(), stop_signals() as signals:
        signals.receive_signal(signal.SIGTERM, None)
        with pytest.raises(KeyboardInterrupt):
            judge_with(signals)
        done.append("judging")
    with interrupt_on_signals():
        with stop_signals() as signals:
            signals.receive_signal(signal.SIGTERM, None)
            with signals.while_judging(AttemptLog(None)):
                drop_finalized()
            busy_for(6 * RAISED_AGAIN_AFTER)
        busy_for(6 * RAISED_AGAIN_AFTER)
        done.append("reporting")
    assert done == ["ignoring", "judging", "reporting"]
    assert capsys.readouterr().err == ""


def judge_with(signals: StopSignals) -> None:
    with signals.while_judging(AttemptLog(None)):
        drop_finalized()
        busy_for(60)


def busy_for(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_other_exceptions_of_finalizers_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Faulty:
        def __del__(self) -> None:
            raise ValueError("of the finalizer")

    said = list[str]()
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: said.append(str(dropped.exc_value)))
    with interrupt_on_signals():
        Faulty()
    assert said == ["of the finalizer"]

"""Signals during a run: the first stops, the second interrupts the judging and nothing else."""

from __future__ import annotations

import os
import signal

import pytest

from search.dispatch.attempts import AttemptLog
from search.engine.stopping import INSISTENT, stop_signals


def send() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000):  # Python handles it between two instructions
        pass


def test_the_second_signal_interrupts_the_judging_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_signals() as signals, stop_signals() as inner:
        assert inner is signals
        with pytest.raises(KeyboardInterrupt), signals.while_judging(AttemptLog(None)):  # noqa: PT012
            send()
            assert signals.stop.is_set()
            send()
        send()  # while files are written
    assert signal.getsignal(signal.SIGTERM) == before


def test_whoever_insists_is_heard() -> None:
    with stop_signals():
        for _ in range(INSISTENT - 1):
            send()
        with pytest.raises(KeyboardInterrupt):
            send()


def test_a_search_that_is_hopeless_is_interrupted_by_one_signal() -> None:
    with stop_signals() as signals:
        signals.stop.set()
        with pytest.raises(KeyboardInterrupt), signals.while_judging(AttemptLog(None)):
            send()

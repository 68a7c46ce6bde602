"""Signals that ask for an end: SIGINT (Ctrl-C), SIGTERM (`timeout`, Slurm), SIGHUP (a terminal that goes)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Handler = Callable[[int, object], None]


def _stop_signals() -> tuple[signal.Signals, ...]:
    """SIGHUP stays ignored where it is: `nohup` asks for that."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    return numbers if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (*numbers, signal.SIGHUP)


@contextmanager
def handle_signals(handler: Handler) -> Iterator[None]:
    """All of them call `handler` while this lasts; outside the main thread, where Python allows none, nothing does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _stop_signals()}
    try:
        yield
    finally:
        for number, previous in before.items():
            # None stands for a handler that was not installed from Python, and cannot be installed again.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)


def raise_interrupt(number: int, frame: object) -> None:
    """The handler for a command that has nothing to write before it ends: as Ctrl-C."""
    raise KeyboardInterrupt


@contextmanager
def ignore_signals() -> Iterator[None]:
    """All of them are ignored while this lasts: for what must not be left half done, and takes seconds."""
    with handle_signals(lambda number, frame: None):
        yield


@contextmanager
def keep_handlers() -> Iterator[None]:
    """Handlers that a library installs meanwhile are replaced by those of before.

    A signal that comes in between meets the library's.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def reinstall_handlers() -> None:
    """Handlers that Python knows are those of the system again, which native code may have replaced."""
    if threading.current_thread() is threading.main_thread():
        for number in _stop_signals():
            handler = signal.getsignal(number)
            if handler is not None:
                signal.signal(number, handler)

"""Signals that ask for an end: SIGINT (Ctrl-C), SIGTERM (`timeout`, Slurm), SIGHUP (a terminal that goes)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Handler = Callable[[int, object], None]


def _stop_signals() -> tuple[signal.Signals, ...]:
    """SIGHUP is left out where it is ignored: `nohup` asks for that."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    return numbers if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (*numbers, signal.SIGHUP)


@contextmanager
def handle_signals(handler: Handler) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP call `handler` while this lasts; no effect outside the main thread (Python's rule)."""
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
    """The handler of commands that have nothing to write before they end: what Python does at Ctrl-C."""
    raise KeyboardInterrupt


@contextmanager
def ignore_signals() -> Iterator[None]:
    """Ignore them while this lasts: for work of seconds that must not be left half done, as removing folders."""
    with handle_signals(lambda number, frame: None):
        yield


@contextmanager
def keep_handlers() -> Iterator[None]:
    """Put back the present handlers at the end, whatever a library installs while this lasts.

    A signal that comes in between meets the library's handler.
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
    """Tell the system of Python's handlers again: native code may have replaced them without Python noticing."""
    if threading.current_thread() is threading.main_thread():
        for number in _stop_signals():
            handler = signal.getsignal(number)
            if handler is not None:
                signal.signal(number, handler)

"""Handlers of the signals that ask for an end: SIGINT (Ctrl-C), SIGTERM (`timeout`, Slurm), SIGHUP."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Handler = Callable[[int, object], None]
RAISED_AGAIN_AFTER = 0.05  # seconds, in which the finalizer that dropped the interrupt ends
_in_force = list[Callable[[], bool]]()  # `may_interrupt` of the handlers, the innermost last


def _stop_signals() -> tuple[signal.Signals, ...]:
    """The three signals; without SIGHUP if it is ignored, because `nohup` asks for that."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    return numbers if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (*numbers, signal.SIGHUP)


@contextmanager
def handle_signals(handler: Handler, may_interrupt: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP call `handler` while this lasts; no effect outside the main thread (Python's rule).

    Args:
        may_interrupt: whether a KeyboardInterrupt is welcome at this moment (see `interrupt_on_signals`).
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _stop_signals()}
    _in_force.append(may_interrupt)
    try:
        yield
    finally:
        _in_force.pop()
        for number, previous in before.items():
            # None stands for a handler that was not installed from Python, and cannot be installed again.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)


def raise_interrupt(number: int, frame: object) -> None:
    """Raise KeyboardInterrupt, as Python does at Ctrl-C: for commands that write nothing before they end."""
    raise KeyboardInterrupt


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt while this lasts, and again where Python has dropped it.

    Python prints and forgets an exception that comes up in a finalizer or in the callback of a weak reference (imports
    have many): a Ctrl-C at that moment would be lost, and the command would go on. What handles signals meanwhile says
    when the interrupt may come again.
    """
    previous = sys.unraisablehook

    def raise_dropped(dropped: sys.UnraisableHookArgs) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            return previous(dropped)
        threading.Thread(target=_interrupt_main_thread, args=[_in_force[-1]], daemon=True).start()

    sys.unraisablehook = raise_dropped
    try:
        with handle_signals(raise_interrupt, lambda: True):
            yield
    finally:
        sys.unraisablehook = previous


def _interrupt_main_thread(may_interrupt: Callable[[], bool]) -> None:
    """Raise KeyboardInterrupt in the main thread once that is welcome, unless the handler it was raised by goes first.

    That is done without a signal: the engine would count it as the user's second.
    """
    time.sleep(RAISED_AGAIN_AFTER)
    while may_interrupt in _in_force:
        if _in_force[-1] is may_interrupt and may_interrupt():
            main_thread = ctypes.c_ulong(threading.main_thread().ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(main_thread, ctypes.py_object(KeyboardInterrupt))
            return
        time.sleep(RAISED_AGAIN_AFTER)


@contextmanager
def ignore_signals() -> Iterator[None]:
    """Ignore the three signals while this lasts: for seconds of work that must not stop half-way (removing folders)."""
    with handle_signals(lambda number, frame: None):
        yield


@contextmanager
def keep_handlers() -> Iterator[None]:
    """Restore the present handlers at the end, whatever a library installs while this lasts.

    A signal that arrives in between reaches the library's handler.
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
    """Install Python's handlers anew: native code may have replaced them without Python noticing."""
    if threading.current_thread() is threading.main_thread():
        for number in _stop_signals():
            handler = signal.getsignal(number)
            if handler is not None:
                signal.signal(number, handler)

"""Ctrl-C and SIGTERM during a run: the first stops it, the second at once; what was judged is reported either way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from search.dispatch.attempts import AttemptLog
from search.machine.signals import handle_signals

INSISTENT = 5  # signals after which even the report is not waited for


class StopSignals:
    """What signals have asked for so far."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        """Set by the first signal, or by whoever finds the run hopeless."""
        self._attempts: AttemptLog | None = None
        self._signals = 0
        self._interrupted = False

    @contextmanager
    def while_judging(self, attempts: AttemptLog) -> Iterator[None]:
        """While this lasts, the second signal raises KeyboardInterrupt, once: candidates are not waited for.

        Before and after it does not, so that the run's files are written whole and the last line is said.
        """
        self._attempts = attempts
        try:
            yield
        finally:
            self._attempts = None

    @property
    def judging(self) -> bool:
        """Whether candidates are being judged, which a second signal breaks off."""
        return self._attempts is not None

    def receive_signal(self, number: int, frame: object) -> None:
        """The handler of both signals."""
        self._signals += 1
        # Candidates whose worker ends now are not to blame for it: they are judged again when the run goes on.
        if self._attempts is not None:
            self._attempts.excuse_running()
        if not self.stop.is_set():
            self.stop.set()
        elif (self.judging and not self._interrupted) or self._signals >= INSISTENT:
            self._interrupted = True
            raise KeyboardInterrupt


_current: ContextVar[StopSignals | None] = ContextVar("stop_signals", default=None)  # each thread has its own


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Signals are received while this lasts; an inner one is the outer one, whose signals count."""
    outer = _current.get()
    if outer is not None:
        yield outer
        return
    signals = StopSignals()
    token = _current.set(signals)
    try:
        with handle_signals(signals.receive_signal, lambda: signals.judging):
            yield signals
    finally:
        _current.reset(token)

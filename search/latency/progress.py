"""Sentences for the user who waits while layers are measured, or a kit of them is written."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

PATIENCE = 5.0  # seconds between two lines on the progress
Say = Callable[[str], None]


def tell_user(sentence: str) -> None:
    """Print a line for the user who waits, on standard error: standard output is for results."""
    print(sentence, file=sys.stderr, flush=True)


class ProgressLines:
    """Tells the user every few seconds how many steps are done."""

    def __init__(self, say: Say, steps: int, what: str = "layer times", done: str = "measured") -> None:
        self._say, self._steps, self._done = say, steps, 0
        self._what, self._verb = what, done
        self._start = self._last = time.monotonic()

    def count_one(self) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._last < PATIENCE or self._done == self._steps:
            return
        self._last = now
        seconds_left = (now - self._start) * (self._steps / self._done - 1)
        self._say(f"{self._what}: {self._done} of {self._steps} {self._verb}, about {seconds_left:.0f} s left")

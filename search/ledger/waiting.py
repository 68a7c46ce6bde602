"""A ledger that another process has locked is waited for, and the user is told what is waited for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from search.ledger import sqlite_file

_log = logging.getLogger(__name__)  # without a handler of the user's, warnings go to standard error


@contextmanager
def tell_long_wait(location: str) -> Iterator[None]:
    """Say once that a ledger is waited for, if what is done meanwhile takes longer than a few seconds.

    The database waits inside one call of its driver, so a second thread speaks. It cannot see whether a lock or a slow
    disk is the reason.
    """
    text = "ledger %s is not free yet: another process has locked it, or its disk is slow; waiting for it"
    timer = threading.Timer(sqlite_file.SAID_AFTER, _log.warning, (text, location))
    timer.daemon = True  # a process that is ended does not wait to say so
    timer.start()
    try:
        yield
    finally:
        timer.cancel()

"""What a user should know of how their files were read: said where it is found out, collected where it is shown.

Code that reads a file calls `add_notice`, however deep it lies; the caller that has a screen or a record wraps the
reading in `collect_notices`. Return values would carry the sentences through a dozen functions that do not care, and
`warnings` would print them on the terminal of every worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from models.errors import one_line

_collectors: ContextVar[tuple[list[str], ...]] = ContextVar("collectors", default=())


def add_notice(sentence: str) -> None:
    """Keep a sentence in every collector that is open; it is dropped if there is none, as in a worker.

    Data are often read twice, for their shape and for their content, so a sentence that is there already is not added.
    """
    sentence = one_line(sentence)  # names of classes and files are the user's, and may hold line feeds
    for notices in _collectors.get():
        if sentence not in notices:
            notices.append(sentence)


@contextmanager
def collect_notices() -> Iterator[list[str]]:
    """A list that fills with the notices given while this lasts; an outer collector gets them as well."""
    notices: list[str] = []
    token = _collectors.set((*_collectors.get(), notices))
    try:
        yield notices
    finally:
        _collectors.reset(token)

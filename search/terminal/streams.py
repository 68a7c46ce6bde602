"""The process's standard streams: none is ever the cause of a traceback, and `--json` has standard output to itself."""

from __future__ import annotations

import codecs
import io
import json
import os
import string
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any, TextIO

READABLE = "ratio-search-readable"
"""The name of the error handler for characters that an encoding lacks."""
# One character for one, so that the columns of tables stay straight.
_STAND_INS = {"±": "~", "×": "x", "Δ": "d", "−": "-", "–": "-", "—": "-", "…": ".", "→": ">", "●": "*", "µ": "u",
              "\N{NO-BREAK SPACE}": " ", "\N{REPLACEMENT CHARACTER}": "?", "‘": "'", "’": "'", "“": '"',
              "”": '"'}  # fmt: skip


def _stand_in(error: UnicodeError) -> tuple[str | bytes, int]:
    """What is shown for a character that cannot be: something alike, or its number as Python writes it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    shown = (_STAND_INS.get(char) or char.encode("ascii", "backslashreplace").decode() for char in text)
    return "".join(shown), error.end


codecs.register_error(READABLE, _stand_in)


def readable_text(text: str, encoding: str) -> str:
    """The text as a stream of this encoding can carry it."""
    try:
        return text.encode(encoding, READABLE).decode(encoding)
    except (LookupError, ValueError):  # an encoding that Python does not know, or one that loses its own stand-ins
        return text.encode("ascii", READABLE).decode()


def prepare_streams() -> None:
    """Open what is closed, and let no character be an error.

    Where descriptor 1 or 2 is closed the next file opened gets its number, and what is printed lands in that file: it
    could be the ledger.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # Python found it closed
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, for the process's life
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if _can_encode(stream.encoding) else "ascii", errors=READABLE)


def _can_encode(encoding: str) -> bool:
    """Whether our output can be written in it: Python takes codecs for a stream that are not made for text (`idna`)."""
    try:
        codecs.getincrementalencoder(encoding)(READABLE).encode(string.printable + "".join(_STAND_INS))
    except (LookupError, ValueError):
        return False
    return True


@contextmanager
def json_output(wanted: bool) -> Iterator[Callable[[Any], None]]:
    """While this lasts nothing but what is given to the function yielded reaches standard output.

    Whatever else is printed, by Python, by a C library or by a process that is started, goes to standard error:
    descriptor 1 itself is turned there, and stays so until the process ends, because destructors and exit handlers
    print too.
    """
    if not wanted:
        yield _write_nothing
        return
    stream = sys.stdout
    stream.flush()
    # Taken before descriptor 1 is turned away: it is the only way left to standard output.
    copy = _own_copy(stream)
    try:
        with redirect_stdout(sys.stderr):
            yield lambda value: _write_json(value, copy or stream)
    finally:
        if copy is not None:
            copy.close()


def _write_nothing(value: Any) -> None:
    """Without `--json` there is no object."""


def _write_json(value: Any, stream: TextIO) -> None:
    stream.write(json.dumps(value, indent=2, default=dict) + "\n")
    stream.flush()


def _own_copy(stream: TextIO) -> TextIO | None:
    """A stream of our own to where standard output leads; None if that is no file of the system's, as in tests."""
    try:
        copy = os.dup(stream.fileno())
    except (OSError, AttributeError, ValueError):
        return None
    os.dup2(2, 1)
    return open(copy, "w", encoding="utf-8")


def flush_streams() -> None:
    """Write what is buffered while an error can still be told; OSError if it cannot be written."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def abandon_streams() -> None:
    """Let what cannot be written go, so that the interpreter does not complain of it when it ends."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, AttributeError, ValueError):
            stream.flush()
            continue
        with suppress(OSError, AttributeError, ValueError):
            os.dup2(devnull, stream.fileno())

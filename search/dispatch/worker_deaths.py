"""What Ray's words, and the file that a worker left, say of its death."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from search.dispatch.attempts import NO_MEMORY
from search.machine.crash_log import NO_TRACE, describe_crash

# What Ray says where the raylet, its process for a machine, is gone: the worker's, or the driver's own. Without its own
# raylet a driver gets no worker any more, as Ray calls it the owner of the actors that it asked for.
_WORKER_MACHINE, _OWN_MACHINE = "node has died", "owner has died"


def error_text(trial: Any) -> str:
    """The error that ended a trial, in Ray's words.

    From the file, not by `trial.get_error()`: that looks where the file will be copied to later.
    """
    try:
        return Path(trial.error_file).read_text(errors="replace")
    except (OSError, TypeError, AttributeError):
        return ""


def death_cause(file: Path | None, error: str) -> str:
    """What a worker died of, as far as it is known: faulthandler saw a signal, or Ray says more than that it died.

    Args:
        file: the attempt's, if it lies on this machine or in a shared folder.
        error: Ray's words.
    """
    if is_out_of_memory(error):
        return NO_MEMORY
    return _crash_in(file) or NO_TRACE


def is_machine_death(file: Path | None, error: str) -> bool:
    """Whether a worker went with its machine, rather than of what it did there."""
    return (_WORKER_MACHINE in error or _OWN_MACHINE in error) and _crash_in(file) is None


def is_own_machine_death(error: str) -> bool:
    """Whether the machine is the driver's own."""
    return _OWN_MACHINE in error


def is_out_of_memory(error: str) -> bool:
    """Whether Ray ended a worker because the machine's memory was full."""
    return "OutOfMemoryError" in error or "running low on memory" in error


def chain_words(error: BaseException | None) -> str:
    """An error's words with those of its causes."""
    words = []
    while error is not None:
        words.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    return "\n".join(words)


def _crash_in(file: Path | None) -> str | None:
    """The fatal signal that a worker's file tells of."""
    if file is None:
        return None
    with contextlib.suppress(OSError):
        return describe_crash(file.read_text(errors="replace"))
    return None

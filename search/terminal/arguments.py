"""The arguments of the process: read once, then without passwords for everyone who looks (`ps`, Ray, reports)."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from models.errors import UserError

_ARG_START, _ARG_END = 45, 46  # proc_pid_stat(5): fields 48 and 49, counted behind the process's name


def take_arguments() -> list[str]:
    """The arguments as they were typed; `sys.argv`, and what the system shows of this process, lose their passwords."""
    typed = sys.argv[1:]
    public = [_without_password(argument, before) for before, argument in zip(["", *typed], typed, strict=False)]
    sys.argv[1:] = public
    for argument, shown in zip(typed, public, strict=True):
        if shown != argument:
            with suppress(OSError, ValueError, IndexError):  # no /proc: nothing to be done
                _overwrite_argument(os.fsencode(argument), os.fsencode(shown))
    return typed


def _without_password(argument: str, before: str) -> str:
    """An argument as it may be shown; of a URL that cannot be read, its beginning alone."""
    flag, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    if "://" not in value and not (before == "--ledger" or flag == "--ledger"):
        return argument
    from search.ledger.location import public_location

    try:
        return flag + equals + public_location(value)
    except UserError:
        return flag + equals + re.match(r"[\w+.-]*", value)[0] + "..."  # type: ignore[index]


def _overwrite_argument(argument: bytes, shown: bytes) -> None:
    """Write over an argument where the kernel keeps it for `/proc/PID/cmdline`, as setproctitle does."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    # Between NULs, as all arguments lie there: what is sought may be the end of another argument.
    place = ctypes.string_at(start, end - start).find(b"\0" + argument + b"\0")
    if start and place >= 0:
        ctypes.memmove(start + place + 1, shown[: len(argument)].ljust(len(argument)), len(argument))

"""Files that are either whole or absent, whenever the process is killed."""

from __future__ import annotations

import atexit
import fcntl
import itertools
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from models.errors import UserError

AGE = 600.0  # seconds that a temporary file must have lain untouched before it counts as left behind
# `temporary_name` and what exports name their folder; dots within the random part would make the name ambiguous.
_TEMPORARY = re.compile(r"\.(?P<name>[^/]+)\.[^/.]+\.tmp(?=$|/)")


def clear_leftovers(path: Path) -> None:
    """Remove what writers of `path` that were killed left beside it: old, and locked by no process."""
    if not path.parent.is_dir():
        return
    for left in path.parent.iterdir():
        if left.name.startswith(f".{_shortened(path.name)}.") and left.name.endswith(".tmp"):
            with suppress(OSError):  # still held, gone already, or not ours to remove
                if time.time() - left.stat().st_mtime > AGE:
                    with hold_lock(left):
                        shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """A lock on a temporary file or folder while it is written; the system lets go of it when the process dies.

    OSError if another process holds it.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


@contextmanager
def report_unwritable(path: Path, advice: str) -> Iterator[None]:
    """Turns the system's refusal to write `path` into a UserError that says what would do."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}); {advice}") from error


def claim_folder(parent: Path, name: str) -> str:
    """The name of a new folder in `parent`: `name`, or it with a number behind where somebody has just taken that.

    If nothing has been put there when the process ends, the folder goes again.
    """
    with report_unwritable(parent, "choose another folder with --results"):
        parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        chosen = name if number == 1 else f"{name}-{number}"
        try:
            with report_unwritable(parent, "choose another folder with --results"):
                (parent / chosen).mkdir()
        except UserError as refusal:
            if isinstance(refusal.__cause__, FileExistsError):
                continue
            raise
        atexit.register(_give_back, parent / chosen)
        return chosen
    raise AssertionError("unreachable")


def _give_back(folder: Path) -> None:
    with suppress(OSError):  # it is in use, or gone
        folder.rmdir()
        folder.parent.rmdir()


def temporary_name(name: str) -> str:
    """What a file is called while it is written; no longer than file systems allow, so that a long name works too."""
    return f".{_shortened(name)}.{os.getpid()}-{secrets.token_hex(4)}.tmp"


def final_name(path: str) -> str:
    """A path as its user knows it: with the name that a file or folder gets when it is written, for a temporary one."""
    return _TEMPORARY.sub(r"\g<name>", path)


def _shortened(name: str) -> str:
    return os.fsencode(name)[:200].decode(errors="ignore")


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write `data`, text as UTF-8 with line ends as they are, in the manner of `atomic_file`."""
    with atomic_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write under a temporary name beside `path`, which it gets when it is whole.

    Missing parent folders are made. A reader sees the old file or the new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `tempfile`: its files are readable by their owner alone, and the rename would keep that.
    temporary = path.with_name(temporary_name(path.name))
    clear_leftovers(path)
    try:
        with temporary.open("wb") as file, hold_lock(temporary):
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # The system names no file when a disk is full, and a temporary one otherwise.
        if isinstance(error, OSError) and error.errno is not None:
            error.filename, error.filename2 = str(path), None
        raise

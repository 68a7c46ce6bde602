"""Files and folders that are written under a temporary, locked name: complete or absent when the process is killed."""

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
from models.settings import setting_name

AGE = 600.0  # seconds that a temporary file must have lain untouched before it counts as left behind
# `temporary_name` and what exports name their folder; dots within the random part would make the name ambiguous.
_TEMPORARY = re.compile(r"\.(?P<name>[^/]+)\.[^/.]+\.tmp(?=$|/)")


def clear_leftovers(path: Path) -> None:
    """Remove the temporary files beside `path` of writers that were killed: old ones that no process has locked."""
    if not path.parent.is_dir():
        return
    for leftover in path.parent.iterdir():
        if leftover.name.startswith(f".{_shorten_name(path.name)}.") and leftover.name.endswith(".tmp"):
            with suppress(OSError):  # locked, gone already, or not ours to remove
                if time.time() - leftover.stat().st_mtime > AGE:
                    with hold_lock(leftover):
                        if leftover.is_dir():
                            shutil.rmtree(leftover)
                        else:
                            leftover.unlink()


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Lock a file or folder itself while this lasts; the system releases the lock when the process dies.

    OSError if another process holds it. Not `filelock`: it makes a lock file of its own, which would lie beside every
    temporary file and outlive it, and it cannot lock a folder, whose name changes when it is complete.
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
    """Make a new folder in `parent` and return its name: `name`, with a number behind it if that is taken.

    If the folder is empty when the process ends, it is removed again.
    """
    with report_unwritable(parent, f"choose another folder with {setting_name('results')}"):
        parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        chosen = name if number == 1 else f"{name}-{number}"
        try:
            with report_unwritable(parent, f"choose another folder with {setting_name('results')}"):
                (parent / chosen).mkdir()
        except UserError as refusal:
            if isinstance(refusal.__cause__, FileExistsError):
                continue
            raise
        atexit.register(_remove_if_empty, parent / chosen)
        return chosen
    raise AssertionError("unreachable")


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # it is in use, or gone
        folder.rmdir()
        folder.parent.rmdir()


def temporary_name(name: str) -> str:
    """The name of a file while it is written; shortened to what file systems allow."""
    return f".{_shorten_name(name)}.{os.getpid()}-{secrets.token_hex(4)}.tmp"


def final_name(path: str) -> str:
    """A path with temporary names in it replaced by those that the user knows, which they get in the end."""
    return _TEMPORARY.sub(r"\g<name>", path)


def _shorten_name(name: str) -> str:
    return os.fsencode(name)[:200].decode(errors="ignore")


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write `data`, text as UTF-8 with line ends as they are, in the manner of `atomic_file`."""
    with atomic_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that is written under a temporary name beside `path`, and renamed to it when it is complete.

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

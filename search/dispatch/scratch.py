"""Temporary folders that nobody else can read, removed by the next process if their own was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from search.files.atomic import AGE
from search.machine.signals import ignore_signals

PREFIX = "rs-"
_INSIDE = "r"
_OURS = re.compile(PREFIX + r"(ray|tune)-\w{8}")
# Locked while the folder's process lives. Not by `filelock`, which cannot lock a file before it has its name.
_LOCK = "lock"


@contextlib.contextmanager
def scratch_folder(name: str) -> Iterator[str]:
    """A temporary folder; those of processes that were killed are removed on the way.

    Its path is short, because Ray's sockets lie in it and their paths may have 107 characters. What is yielded lies
    within a folder of mode 0700: Ray makes its own folder, and all that is in it, writable for everybody.
    """
    parent = Path("/tmp" if os.path.isdir("/tmp") and os.access("/tmp", os.W_OK) else tempfile.gettempdir())
    remove_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{name}-", dir=parent))
    handle = _create_lock(folder)
    try:
        inside = folder / _INSIDE
        inside.mkdir()
        yield str(inside)
    finally:
        with ignore_signals(), contextlib.suppress(OSError):
            _remove_folder(folder)
        os.close(handle)


def remove_abandoned(parent: Path) -> None:
    """Remove the folders whose process is dead; another user's cannot be opened and stay."""
    for folder in parent.glob(f"{PREFIX}*-*"):
        with contextlib.suppress(OSError):  # another user's, locked (alive), or gone meanwhile
            if _lost_its_lock(folder):
                shutil.rmtree(folder, ignore_errors=True)
                continue
            handle = os.open(folder / _LOCK, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_folder(folder)
            finally:
                os.close(handle)


def _remove_folder(folder: Path) -> None:
    """Remove a folder, its lock last.

    Processes of Ray that have outlived their driver may still write into it. What cannot be removed keeps its lock, by
    which the next start knows it for abandoned.
    """
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != _LOCK:
            entry.unlink()
    if [entry.name for entry in folder.iterdir()] != [_LOCK]:
        return
    (folder / _LOCK).unlink()
    try:
        folder.rmdir()
    except OSError:  # somebody has just written into it
        (folder / _LOCK).touch(mode=0o600)


def _lost_its_lock(folder: Path) -> bool:
    """Whether this was a folder of ours until somebody removed a part of it, as earlier versions did.

    While its process lives it has a lock, but for an instant at the beginning.
    """
    status = folder.lstat()
    if not _OURS.fullmatch(folder.name) or not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        return False
    old = time.time() - status.st_mtime > AGE
    return old and stat.S_IMODE(status.st_mode) == 0o700 and {entry.name for entry in folder.iterdir()} <= {_INSIDE}


def _create_lock(folder: Path) -> int:
    """The descriptor of the folder's lock file, locked under another name first: nobody finds it there and unlocked."""
    unnamed = folder / f".{_LOCK}"
    handle = os.open(unnamed, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    unnamed.rename(folder / _LOCK)
    return handle

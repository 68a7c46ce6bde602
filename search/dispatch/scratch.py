"""Temporary folders that nobody else can read, and that go even if their process could not remove them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from search.dispatch.signals import uninterrupted

PREFIX = "rs-"
_LOCK = "lock"  # held while the folder's process lives; the system lets go of it when that dies


@contextlib.contextmanager
def scratch(name: str) -> Iterator[str]:
    """A temporary folder; those of processes that were killed are removed on the way.

    Its path is short, because Ray's sockets lie in it and their paths may have 107 characters. What is yielded lies
    within a folder of mode 0700: Ray makes its own folder, and all that is in it, writable for everybody.
    """
    parent = Path("/tmp" if os.path.isdir("/tmp") and os.access("/tmp", os.W_OK) else tempfile.gettempdir())
    remove_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{name}-", dir=parent))
    handle = _locked(folder)
    try:
        inside = folder / "r"
        inside.mkdir()
        yield str(inside)
    finally:
        with uninterrupted():
            shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def remove_abandoned(parent: Path) -> None:
    """Remove the folders whose process is dead; another user's cannot be opened and stay."""
    for folder in parent.glob(f"{PREFIX}*-*"):
        with contextlib.suppress(OSError):  # no lock (not ours), locked (alive), or gone meanwhile
            handle = os.open(folder / _LOCK, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def _locked(folder: Path) -> int:
    """The descriptor of a lock that is taken before it is visible: nobody finds it free between the two."""
    made = folder / f".{_LOCK}"
    handle = os.open(made, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    made.rename(folder / _LOCK)
    return handle

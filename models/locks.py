"""Locks between the processes of one user on one machine, whatever folder they work in."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from models.errors import UserError


@contextmanager
def machine_lock(name: str) -> Iterator[None]:
    """Held by one process at a time of all that give this name; the system lets go of it when the process dies."""
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    with FileLock(lock_folder() / f"{digest}.lock"):
        yield


def lock_folder() -> Path:
    """A folder in the temporary one that only this user can write to.

    Whoever could make the files beforehand, with names that can be guessed, could have us write through a link.

    Raises:
        UserError: somebody else has taken its name.
    """
    folder = Path(tempfile.gettempdir()) / f"ratio-search-{os.getuid()}"
    with suppress(FileExistsError):  # judged below, whatever it is
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise UserError(f"{folder} must be a folder of yours with mode 0700; remove it, or set TMPDIR to another place")
    return folder

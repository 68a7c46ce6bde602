"""Files that are either whole or absent, whenever the process is killed."""

from __future__ import annotations

import atexit
import itertools
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from models.errors import UserError


@contextmanager
def writing(path: Path, advice: str) -> Iterator[None]:
    """Turns the system's refusal to write `path` into a UserError that says what would do."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}); {advice}") from error


def claimed(parent: Path, name: str) -> str:
    """The name of a new folder in `parent`: `name`, or it with a number behind where somebody has just taken that.

    If nothing has been put there when the process ends, the folder goes again.
    """
    with writing(parent, "choose another folder with --results"):
        parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        chosen = name if number == 1 else f"{name}-{number}"
        try:
            with writing(parent, "choose another folder with --results"):
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


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write `data` (text as UTF-8, line ends as they are) under a temporary name beside `path`, then rename.

    Missing parent folders are made. A reader sees the old file or the new one, never a part.
    """
    content = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `tempfile`: its files are readable by their owner alone, and the rename would keep that.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise

"""A damaged ledger: read as far as it can be, and replaced by a sound one before it is written.

The damaged file is kept under another name, `ledger.db.damaged-20260131-235959`; nothing is ever written into it.
"""

from __future__ import annotations

import atexit
import itertools
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from models.errors import UserError
from search.files.atomic import hold_lock, temporary_name
from search.ledger import sqlite_file
from search.ledger.salvage import Salvage, read_salvage, rebuild_storage

OpenStorage = Callable[[Path], RDBStorage]
REPAIR_TIMEOUT = 120.0  # seconds that another search may take to repair the same file


@dataclass(frozen=True)
class Damage:
    """How a damaged file was dealt with."""

    notice: str | None = None
    """One sentence for the user; None of a sound file."""
    lost: int = 0
    """Outcomes at least that could not be read, or not of which task they are."""


SOUND = Damage()
_readable: dict[object, tuple[Path, bool, Damage]] = {}  # by what a file is and when it was written last


def repair_file(path: Path, tasks: Iterable[tuple[str, str]], open_storage: OpenStorage) -> Damage:
    """Put a sound ledger with all that can be read in place of a damaged one; nothing is done to a sound one.

    Args:
        tasks: fingerprints and titles that damaged records may belong to.

    Raises:
        UserError: nothing can be read of it, or the sound one cannot be written.
    """
    fault = sqlite_file.find_damage(path, write=True)
    if fault is None:
        return SOUND
    with _mending_alone(path) as still_there:
        if not still_there:
            return repair_file(path, tasks, open_storage)  # another search was faster
        salvage = _read_what_is_left(path, tasks, fault)
        damaged_name = _free_name(path)
        try:
            _replace_file(path, damaged_name, salvage, open_storage)
        except OSError as error:
            raise UserError(
                f"ledger {path} is damaged ({fault}) and a sound one cannot be written beside it "
                f"({error.strerror or error}); free space or choose another ledger"
            ) from error
    return Damage(
        f"{_damage_words(path, salvage, fault)}; the damaged file is kept as {damaged_name.name}", salvage.left_out
    )


def readable_file(path: Path, open_storage: OpenStorage) -> tuple[Path, bool, Damage]:
    """The file to read in place of `path`, whether it may be written to, and what was wrong.

    A damaged file is read through a sound copy in a temporary folder. So is one that cannot be written and has a cut
    off write beside it, which SQLite would have to undo before it reads.
    """
    write = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    version = sqlite_file.file_version(path)
    if version not in _readable:
        _readable[version] = _find_readable(path.absolute(), write, open_storage)
    return _readable[version]


def _find_readable(path: Path, write: bool, open_storage: OpenStorage) -> tuple[Path, bool, Damage]:
    source = path
    if not write and sqlite_file.needs_copy(path):
        with _in_temporary_folder(path):
            source, write = _copy_with_side_files(path), True
    fault = sqlite_file.find_damage(source, write=write)
    if fault is None and sqlite_file.has_no_tables(source, write=write):
        raise UserError(f"ledger {path} is empty: no search has begun with it; run one first, or name another ledger")
    if fault is None:
        return source, write, SOUND
    salvage = _read_what_is_left(path, (), fault)
    fresh = _temporary_folder() / f"{secrets.token_hex(4)}.db"
    with _in_temporary_folder(path):
        _write_fresh(fresh, salvage, open_storage)
    notice = f"{_damage_words(path, salvage, fault)}; the next search with it puts that right"
    return fresh, True, Damage(notice, salvage.left_out)


def _read_what_is_left(path: Path, tasks: Iterable[tuple[str, str]], fault: str) -> Salvage:
    try:
        salvage = read_salvage(path, tasks)
    except OSError as error:
        raise UserError(f"ledger {path} cannot be read ({error.strerror}); restore it from a copy") from error
    if salvage.count:
        return salvage
    if salvage.unassigned:
        lost = f", and at least {salvage.lost} more cannot be read" if salvage.lost else ""
        raise UserError(
            f"ledger {path} is damaged ({fault}): {salvage.unassigned} outcomes in it can be read, but not of which "
            f"task they are{lost}; a search of their task with this ledger takes them in"
        )
    raise _nothing_left(path, fault, salvage)


def check_something_left(path: Path, fault: str) -> None:
    """UserError if no outcome of a damaged file can be read, of whatever task."""
    salvage = read_salvage(path)
    if not salvage.count and not salvage.unassigned:
        raise _nothing_left(path, fault, salvage)


def _nothing_left(path: Path, fault: str, salvage: Salvage) -> UserError:
    loss = (
        f"none of the {salvage.lost} outcomes or more in it can be read" if salvage.lost else "no outcome is left in it"
    )
    return UserError(
        f"ledger {path} cannot be read: it is damaged ({fault}) and {loss}; restore it from a copy, or move it away to "
        "begin a new one"
    )


def _damage_words(path: Path, salvage: Salvage, fault: str) -> str:
    lost = f"at least {salvage.lost} could not be" if salvage.lost else "none is known to be lost"
    unassigned = f"{salvage.unassigned} are of no task that it still names, " if salvage.unassigned else ""
    return f"ledger {path} is damaged ({fault}): {salvage.count} outcomes were read, {unassigned}{lost}"


@contextmanager
def _mending_alone(path: Path) -> Iterator[bool]:
    """While this process alone repairs the file; false if another one has just put a sound one in its place."""
    identity, deadline = sqlite_file.file_identity(path), time.monotonic() + REPAIR_TIMEOUT
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(hold_lock(path))
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise sqlite_file.locked_error(path) from error
                time.sleep(0.2)
        yield sqlite_file.file_identity(path) == identity


def _replace_file(path: Path, damaged_name: Path, salvage: Salvage, open_storage: OpenStorage) -> None:
    """A sound file in place of `path`, which is there at every instant; the damaged one gets `damaged_name`."""
    fresh = path.with_name(temporary_name(path.name))
    try:
        _write_fresh(fresh, salvage, open_storage)
        shutil.copymode(path, fresh)
        try:
            os.link(path, damaged_name)
        except OSError:  # a file system without links
            shutil.copy2(path, damaged_name)
        for side in sqlite_file.side_files(path):  # SQLite would undo writes of the old file in the new one
            side.rename(damaged_name.with_name(damaged_name.name + side.name.removeprefix(path.name)))
        fresh.replace(path)
    finally:
        for leftover in (fresh, *sqlite_file.side_files(fresh)):
            leftover.unlink(missing_ok=True)


def _write_fresh(path: Path, salvage: Salvage, open_storage: OpenStorage) -> None:
    path.touch()
    try:
        storage = open_storage(path)
        try:
            rebuild_storage(salvage, storage)
        finally:  # an open connection would hold the file that is removed, and its space
            storage.remove_session()
            storage.engine.dispose()
    except (SQLAlchemyError, StorageInternalError) as error:  # Optuna tells a full disk as one of these
        raise OSError(str(error.__cause__ or error)) from error
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _free_name(path: Path) -> Path:
    stem = f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
    names = (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(1))
    return next(free for name in names if not (free := path.with_name(name)).exists())


def _copy_with_side_files(path: Path) -> Path:
    """The database with what lies beside it, in a folder that can be written to."""
    folder = Path(tempfile.mkdtemp(dir=_temporary_folder()))
    for file in (path, *sqlite_file.side_files(path)):
        shutil.copy(file, folder / file.name)
        (folder / file.name).chmod(0o600)
    return folder / path.name


@contextmanager
def _in_temporary_folder(path: Path) -> Iterator[None]:
    """Turns a temporary folder's refusal to take a copy of the ledger into one sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"ledger {path} can only be read through a copy, which {tempfile.gettempdir()} does not take "
            f"({error.strerror or error}); free space there, or name another temporary folder in TMPDIR"
        ) from error


@cache
def _temporary_folder() -> Path:
    """Gone when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="ratio-search-ledger-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder

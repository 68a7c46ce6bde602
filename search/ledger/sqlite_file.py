"""A ledger in an SQLite file: whether it is one, is sound, may be written; opened so that nothing is made or hidden."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import stat
from pathlib import Path

from models.errors import UserError

LOCK_TIMEOUT = 60.0  # seconds an SQLite writer waits for another one (optuna #820: the default of 5 is too short)
SAID_AFTER = 3.0  # seconds after which a user is told what is waited for
MAGIC = b"SQLite format 3\x00"
LOCKED = ("database is locked", "database table is locked", "database schema is locked")
_REFUSED = ("unable to open", "readonly database", "read-only", "full", "permission")  # by the system, not by damage
_SIDE_FILES = ("-journal", "-wal", "-shm")  # what SQLite puts beside a database
_OURS = {"studies", "version_info"}
_log = logging.getLogger(__name__)  # without a handler of the user's, warnings go to standard error


def connect(path: Path, *, write: bool, durable: bool = True) -> sqlite3.Connection:
    """A connection that makes no file, so that one that is gone is missed, and reads text that is damaged.

    Args:
        durable: wait for the disk at every write; a file that nobody else knows yet need not.
    """
    uri = f"{path.absolute().as_uri()}?mode={'rw' if write else 'ro'}"
    connection = sqlite3.connect(uri, uri=True, timeout=LOCK_TIMEOUT, check_same_thread=False)
    connection.text_factory = lambda content: content.decode(errors="replace")
    if not durable:
        connection.execute("PRAGMA synchronous = OFF")
    return connection


def check_file(path: Path, *, write: bool, create: bool = False) -> None:
    """Refuse what SQLite would only stumble over later, or would write another program's tables into.

    Args:
        write: it must be possible to write it.
        create: make an empty one if there is none.
    """
    try:
        if path.is_dir():
            raise UserError(f"ledger {path} is a folder; name a file in it, as in {path / 'ledger.db'}")
        if not path.exists():
            if not create:
                raise UserError(f"there is no ledger at {path}; run a search with it first, or name another")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"ledger {path} is no regular file; name another")
        with path.open("rb") as file:
            head = file.read(len(MAGIC))
    except OSError as error:
        advice = "choose a place that can be written to" if write else "change its permissions or name another"
        raise UserError(f"ledger {path} cannot be opened ({error.strerror}); {advice}") from error
    if write and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        raise UserError(
            f"ledger {path} cannot be written to, only read; make it writable, or start a search with another ledger"
        )
    if head and head != MAGIC and not holds_records(path):
        raise UserError(f"ledger {path} is not an SQLite database; name another file")


def find_damage(path: Path, *, write: bool) -> str | None:
    """What SQLite says is wrong with the file; None if it is sound.

    Raises:
        UserError: it is locked, cannot be opened, or is another program's.
    """
    try:
        connection = connect(path, write=write)
        try:
            _wait_for_others(connection, path)
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            damage = _check(connection)
        finally:
            connection.close()
    except sqlite3.Error as error:
        text = str(error)
        if text.startswith(LOCKED):
            raise locked(path) from error
        if any(words in text.lower() for words in _REFUSED):
            raise UserError(
                f"ledger {path} cannot be opened ({text}); change its permissions or name another"
            ) from error
        return text
    if tables and not _OURS & tables and not holds_records(path):
        raise UserError(
            f"ledger {path} is another program's database (tables {', '.join(sorted(tables)[:3])}); name another file"
        )
    return damage


def _wait_for_others(connection: sqlite3.Connection, path: Path) -> None:
    """Wait until no other process keeps the file from being read, and say so once if that takes long.

    SQLite itself waits in silence, and Python offers no way to be called meanwhile.
    """
    connection.execute(f"PRAGMA busy_timeout = {round(1000 * SAID_AFTER)}")
    try:
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    except sqlite3.OperationalError as error:
        if not str(error).startswith(LOCKED):
            raise
        _log.warning("ledger %s is locked by another process; waiting for it, %.0f s at most", path, LOCK_TIMEOUT)
    connection.execute(f"PRAGMA busy_timeout = {round(1000 * LOCK_TIMEOUT)}")


def is_empty(path: Path, *, write: bool) -> bool:
    """Whether a sound file has no tables yet: of no bytes, or left by a search that ended before it made them."""
    connection = connect(path, write=write)
    try:
        return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None
    finally:
        connection.close()


def locked(name: object) -> UserError:
    """What to say where another process holds a ledger for longer than `LOCK_TIMEOUT`."""
    return UserError(
        f"ledger {name} is locked: another process is writing it or has stopped while doing so; wait for that process "
        "or end it, or name another ledger"
    )


def keeps_log(path: Path) -> bool:
    """Whether the database writes a log beside itself (WAL), for which even a reader makes files."""
    with path.open("rb") as file:
        return file.read(20)[18:19] == b"\x02"


def side_files(path: Path) -> list[Path]:
    """What SQLite has put beside the database."""
    return [side for suffix in _SIDE_FILES if (side := path.with_name(path.name + suffix)).exists()]


def file_identity(path: Path) -> tuple[int, int] | None:
    """Device and number of the file that a path leads to now; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def file_version(path: Path) -> tuple[object, ...]:
    """Changes whenever the database does: its newest writes may be in the log beside it alone (WAL), or half undone."""
    files = [path, *(side for side in side_files(path) if not side.name.endswith("-shm"))]  # which readers write too
    states = [(file.name, file.stat()) for file in files]
    return str(path.absolute()), *((name, s.st_dev, s.st_ino, s.st_mtime_ns, s.st_size) for name, s in states)


def _check(connection: sqlite3.Connection) -> str | None:
    """The first fault of pages, indexes or references between tables."""
    for (text,) in connection.execute("PRAGMA integrity_check(1)"):
        if text != "ok":
            return " ".join(str(text).replace("*** in database main ***", "").split())
    if connection.execute("PRAGMA foreign_key_check").fetchone() is not None:
        return "rows belong to rows that are not there"
    return _version_fault(connection)


def _version_fault(connection: sqlite3.Connection) -> str | None:
    """What Optuna writes when it makes the tables, and refuses to go on without."""
    try:
        rows = connection.execute("SELECT schema_version, library_version FROM version_info").fetchall()
        rows += [(0, version) for (version,) in connection.execute("SELECT version_num FROM alembic_version")]
    except sqlite3.OperationalError:  # no such table: an empty file, or another program's
        return None
    sound = all(isinstance(number, int) and isinstance(text, str) and re.fullmatch(r"v?\d[\w.+-]*", text)
                for number, text in rows)  # fmt: skip
    return None if sound else "Optuna's version cannot be read"


def holds_records(path: Path) -> bool:
    """Whether records of ours lie in a file whose beginning or tables are damaged."""
    return b'"{\\"schema\\":' in path.read_bytes()

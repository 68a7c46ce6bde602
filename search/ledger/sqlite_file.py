"""SQLite files of ledgers: checked for permissions, damage and other programs' tables; opened without being made."""

from __future__ import annotations

import errno
import logging
import os
import re
import sqlite3
import stat
from pathlib import Path

from models.errors import UserError
from search.ledger.location import LEDGER_FILE

LOCK_TIMEOUT = 60.0  # seconds an SQLite writer waits for another one (optuna #820: the default of 5 is too short)
SAID_AFTER = 3.0  # seconds after which a user is told what is waited for
MAGIC = b"SQLite format 3\x00"
SMALLEST_PAGE = 512  # bytes, of every SQLite database
LOCKED = ("database is locked", "database table is locked", "database schema is locked")
_REFUSED = ("unable to open", "readonly database", "read-only", "full", "permission")  # by the system, not by damage
_SIDE_FILES = ("-journal", "-wal", "-shm")  # what SQLite puts beside a database
_OURS = {"studies", "version_info"}
_log = logging.getLogger(__name__)  # without a handler of the user's, warnings go to standard error


def connect_file(path: Path, *, write: bool, durable: bool = True) -> sqlite3.Connection:
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
    """Refuse what SQLite would only stumble over later, by the names and permissions of files alone.

    The file is not opened here: closing a descriptor drops all locks that this process holds on the file, another
    ledger's in another thread included (POSIX; https://www.sqlite.org/howtocorrupt.html, section 2.2).

    Args:
        write: it must be possible to write it.
        create: make an empty one if there is none.
    """
    try:
        if path.is_dir():
            raise UserError(f"ledger {path} is a folder; name a file in it, as in {path / LEDGER_FILE}")
        if not path.exists():
            if not create:
                raise UserError(f"there is no ledger at {path}; run a search with it first, or name another")
            path.parent.mkdir(parents=True, exist_ok=True)
            _create_empty(path)
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"ledger {path} is no regular file; name another")
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        advice = "choose a place that can be written to" if write else "change its permissions or name another"
        raise UserError(f"ledger {path} cannot be opened ({error.strerror}); {advice}") from error
    if write and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        raise UserError(
            f"ledger {path} cannot be written to, only read; make it writable, or start a search with another ledger"
        )


def _create_empty(path: Path) -> None:
    """A file of no bytes, made by SQLite: another thread may have made and locked it since it was looked for."""
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rwc", uri=True, timeout=LOCK_TIMEOUT)
    try:
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1")  # the file is made at the first look, not before
    except sqlite3.OperationalError as error:
        raise OSError(errno.EIO, str(error)) from error
    finally:
        connection.close()


def find_damage(path: Path, *, write: bool) -> str | None:
    """What SQLite says is wrong with the file; None if it is sound.

    Only a file that SQLite calls damaged is read without SQLite, which drops this process's locks on it: it is about
    to be replaced, and no transaction of another thread can be completed in it.

    Raises:
        UserError: it is locked, cannot be opened, or is no ledger.
    """
    tables: set[str] = set()
    try:
        connection = connect_file(path, write=write)
        try:
            _wait_for_others(connection, path)
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            damage = _find_fault(connection)
        finally:
            connection.close()
    except sqlite3.Error as error:
        damage = str(error)
        if damage.startswith(LOCKED):
            raise locked_error(path) from error
        if any(words in damage.lower() for words in _REFUSED):
            raise UserError(
                f"ledger {path} cannot be opened ({damage}); change its permissions or name another"
            ) from error
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB and not _was_a_database(path):
            raise UserError(f"ledger {path} is not an SQLite database; name another file") from error
    if damage is None and not tables and 0 < path.stat().st_size < SMALLEST_PAGE:
        raise UserError(f"ledger {path} is not an SQLite database; name another file")  # SQLite takes one byte for none
    if tables and not _OURS & tables and not (damage is not None and holds_records(path)):
        raise UserError(
            f"ledger {path} is another program's database (tables {', '.join(sorted(tables)[:3])}); name another file"
        )
    return damage


def _was_a_database(path: Path) -> bool:
    """Whether a file that SQLite does not know for a database was one: by its first bytes, or by records of ours."""
    with path.open("rb") as file:
        head = file.read(len(MAGIC))
    return head == MAGIC or holds_records(path)


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


def has_no_tables(path: Path, *, write: bool) -> bool:
    """Whether a sound file has no tables yet: of no bytes, or left by a search that ended before it made them."""
    connection = connect_file(path, write=write)
    try:
        return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None
    finally:
        connection.close()


def locked_error(name: object) -> UserError:
    """What to say where another process holds a ledger for longer than `LOCK_TIMEOUT`."""
    return UserError(
        f"ledger {name} is locked: another process is writing it or has stopped while doing so; wait for that process "
        "or end it, or name another ledger"
    )


def needs_copy(path: Path) -> bool:
    """Whether SQLite cannot read the file in a folder that it may not write to.

    It would make files: those that readers of a log (WAL) share, or what is left when it undoes a cut off write.
    """
    if side_files(path):
        return True
    connection = connect_file(path, write=False)
    try:
        connection.execute("PRAGMA busy_timeout = 0")
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1")
    except sqlite3.Error as error:  # of the others `find_damage` speaks
        return error.sqlite_errorcode == sqlite3.SQLITE_CANTOPEN
    finally:
        connection.close()
    return False


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


def _find_fault(connection: sqlite3.Connection) -> str | None:
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

"""From what a user calls a ledger's location to an open Optuna storage, or one sentence why not."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import column, select, table
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from models.errors import UserError

LOCK_TIMEOUT = 60.0  # seconds an SQLite writer waits for another one (optuna #820: the default of 5 is too short)
RACE_ATTEMPTS = 5  # two processes that create the same file's tables: one finds them half there
RACED = ("already exists", "UNIQUE constraint failed", "duplicate key")
DRIVERS = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "mysqldb": "mysqlclient", "pymysql": "pymysql"}
"""What SQLAlchemy calls a driver, which is for it to choose unless the URL does -> the package that has it."""
_TRIALS = table("trials", column("trial_id"), column("study_id"))
_ATTRIBUTES = table("trial_user_attributes", column("trial_id"), column("key"), column("value_json"))
SQLITE_MAGIC = b"SQLite format 3\x00"


def open_storage(location: str | Path, *, must_exist: bool = False) -> RDBStorage:
    """Open or create the storage at `location`, an SQLite file or a URL.

    Raises:
        UserError: it cannot be used; or `must_exist` and there is none.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces every new study on the terminal
    url = storage_url(location)
    arguments: dict[str, object] = {}
    if url.get_backend_name() == "sqlite":
        _check_file(Path(str(url.database)), must_exist)
        arguments = {"connect_args": {"timeout": LOCK_TIMEOUT}}
    rendered = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")  # Optuna formats it
    for attempt in range(RACE_ATTEMPTS):
        try:
            return RDBStorage(rendered, engine_kwargs=dict(arguments))
        except (SQLAlchemyError, StorageInternalError, ImportError, RuntimeError) as error:
            if attempt == RACE_ATTEMPTS - 1 or not any(sign in cause(error) for sign in RACED):
                raise _refusal(url, error) from error
            time.sleep(0.1 * 2**attempt)
    raise AssertionError("unreachable")


def check_location(location: str | Path) -> None:
    """Whether a ledger could be opened there, before anything slow is done; no file is made.

    Raises:
        UserError: it cannot be used.
    """
    url = storage_url(location)
    if url.get_backend_name() != "sqlite":
        open_storage(location).remove_session()
        return
    path = Path(str(url.database))
    if path.exists():
        _check_file(path, must_exist=True)
        return
    parent = next(folder for folder in path.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"ledger {path} cannot be made in {parent}; choose a place that can be written to")


def storage_url(location: str | Path) -> URL:
    """The URL of a location; a path becomes `sqlite:///path`."""
    text = str(location)
    if "://" not in text:
        return URL.create("sqlite", database=os.path.abspath(os.path.expanduser(text)))
    try:
        url = make_url(text)
        url.get_dialect()
    except NoSuchModuleError as error:
        scheme = text.split("://")[0]
        raise UserError(
            f"ledger URLs of scheme {scheme!r} are not supported; use a file, sqlite:///, postgresql:// or mysql://"
        ) from error
    except (ArgumentError, ValueError) as error:
        raise UserError(
            f"cannot read the ledger URL {text!r}; give a file, or scheme://user:password@host/name"
        ) from error
    except ImportError as error:
        raise _refusal(url, error) from error
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise UserError(
            f"ledger {text!r} would be lost with the process; name a file, as in sqlite:///results/ledger.db"
        )
    return url


def read_attributes(storage: RDBStorage, study: int, key: str, *, after: int) -> list[tuple[int, str | None]]:
    """(trial id, the string attribute `key` or None) of a study's trials with ids above `after`, in order of id.

    Asks the tables rather than Optuna, which reads everything of a trial and fails on the first damaged one.
    """
    condition = (_ATTRIBUTES.c.trial_id == _TRIALS.c.trial_id) & (_ATTRIBUTES.c.key == key)
    query = (
        select(_TRIALS.c.trial_id, _ATTRIBUTES.c.value_json)
        .select_from(_TRIALS.outerjoin(_ATTRIBUTES, condition))
        .where(_TRIALS.c.study_id == study, _TRIALS.c.trial_id > after)
        .order_by(_TRIALS.c.trial_id)
    )
    with storage.engine.connect() as connection:
        return [(trial, _loads(text)) for trial, text in connection.execute(query)]


def _loads(text: str | None) -> str | None:
    """The string in a JSON column; None if it holds anything else."""
    try:
        value = json.loads(text) if text else None
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def readable(location: str | Path) -> str:
    """The location without its password."""
    return make_url(str(location)).render_as_string() if "://" in str(location) else str(location)


def cause(error: BaseException) -> str:
    """What the database itself said, on one line: Optuna and SQLAlchemy wrap it."""
    while (inner := getattr(error, "orig", None) or error.__cause__) is not None:
        error = inner
    return " ".join(str(error).split()) or type(error).__name__


def _refusal(url: URL, error: BaseException) -> UserError:
    name = url.render_as_string() if url.get_backend_name() != "sqlite" else url.database
    if isinstance(error, ImportError):
        package = DRIVERS.get(url.get_dialect().driver, "its driver")
        return UserError(f"ledger {name} needs a database driver that is not installed; pip install '{package}'")
    return UserError(f"ledger {name} cannot be used: {cause(error)}")


def _check_file(path: Path, must_exist: bool) -> None:
    """Refuse what SQLite would only stumble over later, or would write another program's tables into."""
    if path.is_dir():
        raise UserError(f"ledger {path} is a folder; name a file in it, as in {path / 'ledger.db'}")
    try:
        if not path.exists():
            if must_exist:
                raise UserError(f"there is no ledger at {path}; run a search with it first, or name another")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        with path.open("rb") as file:
            head = file.read(len(SQLITE_MAGIC))
    except OSError as error:
        raise UserError(
            f"ledger {path} cannot be opened ({error.strerror}); choose a place that can be written to"
        ) from error
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        raise UserError(f"ledger {path} cannot be written to; change its permissions or choose another place")
    if head and head != SQLITE_MAGIC:
        raise UserError(f"ledger {path} is not an SQLite database; name another file")
    if head:
        _check_tables(path)


def _check_tables(path: Path) -> None:
    try:
        connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT)
        try:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise UserError(
            f"ledger {path} cannot be read: {error}; restore it from a copy or name another file"
        ) from error
    if tables and not {"studies", "version_info"} & tables:
        raise UserError(
            f"ledger {path} is another program's database (tables {', '.join(sorted(tables)[:3])}); name another file"
        )

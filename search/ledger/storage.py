"""From what a user calls a ledger's location to an open database, or one sentence why not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import column, select, table
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from models.errors import UserError
from search.ledger import sqlite_file
from search.ledger.location import full_url, missing_password, public_location, scrub_passwords
from search.ledger.record import load_json
from search.ledger.repair import SOUND, Damage, check_something_left, readable_file, repair_file

RACE_ATTEMPTS = 5  # two processes that create the same file's tables: one finds them half there
RACED = ("already exists", "UNIQUE constraint failed", "duplicate key")
DRIVERS = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "mysqldb": "mysqlclient", "pymysql": "pymysql"}
"""What SQLAlchemy calls a driver, which is for it to choose unless the URL does -> the package that has it."""
_STUDIES = table("studies", column("study_id"), column("study_name"))
_STUDY_ATTRIBUTES = table("study_user_attributes", column("study_id"), column("key"), column("value_json"))
_TRIALS = table("trials", column("trial_id"), column("study_id"))
_ATTRIBUTES = table("trial_user_attributes", column("trial_id"), column("key"), column("value_json"))


@dataclass(frozen=True)
class Opened:
    """An open ledger."""

    engine: Engine
    storage: RDBStorage | None
    """To write with; None of one that is only read."""
    damage: Damage = SOUND
    path: Path | None = None
    """Of an SQLite file that is written."""
    identity: tuple[int, int] | None = None
    """Of that file when it was opened."""

    @property
    def moved(self) -> bool:
        """Whether the path leads to another file by now, or to none."""
        return self.path is not None and sqlite_file.file_identity(self.path) != self.identity

    def close(self) -> None:
        if self.storage is not None:
            self.storage.remove_session()
        self.engine.dispose()


def open_for_writing(location: str | Path, tasks: Iterable[tuple[str, str]] = ()) -> Opened:
    """Open or create the ledger at `location`, an SQLite file or a URL; a damaged file is replaced by what is left.

    Args:
        tasks: fingerprints and titles that damaged records may belong to.

    Raises:
        UserError: it cannot be used.
    """
    url = storage_url(location)
    if url.get_backend_name() != "sqlite":
        storage = open_storage(location)
        return Opened(storage.engine, storage)
    path = Path(str(url.database))
    sqlite_file.check_file(path, write=True, create=True)
    damage = repair_file(path, tasks, partial(_sqlite_storage, durable=False))
    storage = _sqlite_storage(path)
    return Opened(storage.engine, storage, damage, path, sqlite_file.file_identity(path))


def open_for_reading(location: str | Path) -> Opened:
    """Open the ledger at `location` to read it; of a damaged file what is left is read, and the file stays as it is.

    Raises:
        UserError: it is not there, or cannot be used.
    """
    url = storage_url(location)
    if url.get_backend_name() != "sqlite":
        return Opened(open_storage(location).engine, None)
    path = Path(str(url.database))
    sqlite_file.check_file(path, write=False)
    readable_path, write, damage = readable_file(path, partial(_sqlite_storage, durable=False))
    # No connection is kept: the file may be replaced while it is looked at.
    creator = lambda: sqlite_file.connect_file(readable_path, write=write)  # noqa: E731
    return Opened(sqlalchemy.create_engine("sqlite://", creator=creator, poolclass=NullPool), None, damage)


def open_storage(location: str | Path) -> RDBStorage:
    """Open or create Optuna's storage at `location`; UserError if it cannot be used."""
    url = storage_url(location)
    if url.get_backend_name() == "sqlite":
        path = Path(str(url.database))
        sqlite_file.check_file(path, write=True, create=True)
        return _sqlite_storage(path)
    return _open_optuna_storage(url, url.render_as_string(hide_password=False), {})


def _sqlite_storage(path: Path, durable: bool = True) -> RDBStorage:
    url = URL.create("sqlite", database=str(path))
    creator = lambda: sqlite_file.connect_file(path, write=True, durable=durable)  # noqa: E731
    return _open_optuna_storage(
        url, "sqlite:///ledger.db", {"creator": creator, "poolclass": sqlalchemy.pool.QueuePool}
    )


def _open_optuna_storage(url: URL, rendered: str, arguments: dict[str, Any]) -> RDBStorage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces every new study on the terminal
    rendered = rendered.replace("{", "{{").replace("}", "}}")  # Optuna formats it
    for attempt in range(RACE_ATTEMPTS):
        try:
            return RDBStorage(rendered, engine_kwargs=dict(arguments))
        except (SQLAlchemyError, StorageInternalError, ImportError, RuntimeError) as error:
            if attempt == RACE_ATTEMPTS - 1 or not any(sign in root_cause(error) for sign in RACED):
                raise _unusable_error(url, error) from error
            time.sleep(0.1 * 2**attempt)
    raise AssertionError("unreachable")


def check_location(location: str | Path) -> None:
    """Whether a ledger could be written there, before anything slow is done; no file is made.

    Raises:
        UserError: it cannot be used.
    """
    url = storage_url(location)
    if url.get_backend_name() != "sqlite":
        open_storage(location).remove_session()
        return
    path = Path(str(url.database))
    if path.exists():
        sqlite_file.check_file(path, write=True)
        fault = sqlite_file.find_damage(path, write=True)  # refuses what is locked or another program's
        if fault is not None:
            check_something_left(path, fault)
        return
    parent = next(folder for folder in path.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"ledger {path} cannot be made in {parent}; choose a place that can be written to")


def storage_url(location: str | Path) -> URL:
    """The URL of a location; a path becomes `sqlite:///path`."""
    text = public_location(location)
    if "://" not in text:
        return URL.create("sqlite", database=os.path.abspath(os.path.expanduser(text)))
    url = full_url(text)
    try:
        url.get_dialect()
    except NoSuchModuleError as error:
        raise UserError(
            f"ledger URLs of scheme {url.drivername!r} are not supported; use a file, sqlite:///, postgresql:// or "
            "mysql://"
        ) from error
    except ImportError as error:
        raise _unusable_error(url, error) from error
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise UserError(
            f"ledger {text!r} would be lost with the process; name a file, as in sqlite:///results/ledger.db"
        )
    return url


def read_studies(engine: Engine) -> dict[int, tuple[str, dict[str, Any]]]:
    """Id of each study -> its name and those of its attributes that are JSON.

    Asks the tables rather than Optuna, which fails on the first damaged value.
    """
    with engine.connect() as connection:
        studies: dict[int, tuple[str, dict[str, Any]]] = {
            study: (str(name), {})
            for study, name in connection.execute(select(_STUDIES.c.study_id, _STUDIES.c.study_name))
        }
        query = select(_STUDY_ATTRIBUTES.c.study_id, _STUDY_ATTRIBUTES.c.key, _STUDY_ATTRIBUTES.c.value_json)
        for study, key, text in connection.execute(query):
            value = _json_value(text)
            if study in studies and value is not None:
                studies[study][1][str(key)] = value
    return studies


def read_attributes(engine: Engine, study: int, key: str, *, after: int) -> list[tuple[int, Any]]:
    """(trial id, the attribute `key` or None) of a study's trials with ids above `after`, in order of id.

    Asks the tables rather than Optuna, which reads everything of a trial and fails on the first damaged one.
    """
    condition = (_ATTRIBUTES.c.trial_id == _TRIALS.c.trial_id) & (_ATTRIBUTES.c.key == key)
    query = (
        select(_TRIALS.c.trial_id, _ATTRIBUTES.c.value_json)
        .select_from(_TRIALS.outerjoin(_ATTRIBUTES, condition))
        .where(_TRIALS.c.study_id == study, _TRIALS.c.trial_id > after)
        .order_by(_TRIALS.c.trial_id)
    )
    with engine.connect() as connection:
        return [(trial, _json_value(text)) for trial, text in connection.execute(query)]


def _json_value(text: Any) -> Any:
    """What a JSON column holds; None if that is no JSON."""
    try:
        return load_json(text) if isinstance(text, str) else None
    except ValueError:
        return None


def root_cause(error: BaseException) -> str:
    """What the database itself said, on one line: Optuna and SQLAlchemy wrap it."""
    while (inner := getattr(error, "orig", None) or error.__cause__) is not None:
        error = inner
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return scrub_passwords(" ".join(str(error).split())) or type(error).__name__


def _unusable_error(url: URL, error: BaseException) -> UserError:
    shown = public_location(url.render_as_string(hide_password=False))
    name = shown if url.get_backend_name() != "sqlite" else url.database
    if isinstance(error, ImportError):
        package = DRIVERS.get(url.get_dialect().driver, "its driver")
        return UserError(f"ledger {name} needs a database driver that is not installed; pip install '{package}'")
    reason = root_cause(error)
    if any(sign in reason for sign in sqlite_file.LOCKED):
        return sqlite_file.locked_error(name)
    if sentence := missing_password(url, reason):
        return UserError(f"ledger {name} {sentence}")
    return UserError(f"ledger {name} cannot be used: {reason}")

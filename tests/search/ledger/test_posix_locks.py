"""Several ledgers on one file in one process: opening, reading and closing one leaves the locks of the others alone.

Whether a lock is there is asked from another process: within one, SQLite keeps account of it itself.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ledger_samples import TASK, TITLE, candidate, outcome

from search.ledger.ledger import Ledger, list_tasks
from search.ledger.storage import check_location

WRITE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0)
connection.execute("BEGIN IMMEDIATE")
"""


def read_all(path: Path) -> None:
    with Ledger.open_existing(str(path), TASK) as ledger:
        assert len(ledger.records()) == 1
        ledger.facts()
        ledger.refresh()


def open_and_close(path: Path) -> None:
    Ledger(str(path), TASK, TITLE).close()


def read_as_another_user(path: Path) -> None:
    """For whom the file is read-only."""
    may = os.access
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "access", lambda place, mode: mode != os.W_OK and may(place, mode))
        read_all(path)


@pytest.mark.parametrize(
    "look", [read_all, open_and_close, lambda path: list_tasks(str(path)), lambda path: check_location(str(path)),
             read_as_another_user]
)  # fmt: skip
def test_a_write_of_another_thread_stays_locked(look: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(str(path), TASK, TITLE) as ledger:
        ledger.add(candidate(), outcome())
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("PRAGMA journal_mode = MEMORY")  # without a file beside it, for the reader who may not write
    writer.execute("BEGIN IMMEDIATE")
    look(path)
    other = subprocess.run([sys.executable, "-c", WRITE, str(path)], capture_output=True, text=True)
    writer.rollback()
    writer.close()
    assert "database is locked" in other.stderr
    subprocess.run([sys.executable, "-c", WRITE, str(path)], check=True)


def test_making_a_ledger_that_another_thread_has_just_made_leaves_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    exists, writers = Path.exists, list[sqlite3.Connection]()

    def exists_until_now(self: Path) -> bool:
        """No; and then it is made and locked at once."""
        if self != path or writers:
            return exists(self)
        writers.append(sqlite3.connect(path, isolation_level=None))
        writers[0].execute("BEGIN IMMEDIATE")
        return False

    monkeypatch.setattr(Path, "exists", exists_until_now)
    monkeypatch.setattr("search.ledger.sqlite_file.LOCK_TIMEOUT", 0.05)
    monkeypatch.setattr("search.ledger.sqlite_file.SAID_AFTER", 0.05)
    with pytest.raises(Exception, match="locked"):
        Ledger(str(path), TASK, TITLE)
    other = subprocess.run([sys.executable, "-c", WRITE, str(path)], capture_output=True, text=True)
    writers[0].rollback()
    writers[0].close()
    assert "database is locked" in other.stderr

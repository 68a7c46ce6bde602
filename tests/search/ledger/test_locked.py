"""Ledgers that can only be read, that another process holds, that are gone or were replaced while they were open."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ledger_samples import TASK, TITLE, candidate, outcome
from mounts import read_only
from optuna.storages import RDBStorage

from models.errors import UserError
from search.ledger import sqlite_file
from search.ledger.ledger import Ledger, LedgerError, list_tasks
from search.ledger.storage import check_location

COUNT = 5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with some outcomes and a fact."""
    path = tmp_path / "place" / "ledger.db"
    with Ledger(str(path), TASK, TITLE) as ledger:
        for number in range(COUNT):
            ledger.add(candidate(number), outcome(number))
        ledger.store_fact("dense", {"flops": 7})
    return path


@pytest.fixture
def read_only_path(path: Path) -> Iterator[Path]:
    """The same, in a folder that nobody can write to."""
    with read_only(path.parent):
        yield path


def seeds(path: Path) -> list[int]:
    with Ledger.open_existing(str(path), TASK) as ledger:
        assert ledger.facts("dense") == {"dense": {"flops": 7}}
        return [record.candidate.seed for record in ledger.records()]


def test_what_cannot_be_written_is_read(read_only_path: Path) -> None:
    assert list_tasks(str(read_only_path)) == {TASK: TITLE}
    assert seeds(read_only_path) == list(range(COUNT))
    for attempt in (lambda: check_location(str(read_only_path)), lambda: Ledger(str(read_only_path), TASK, TITLE)):
        with pytest.raises(UserError, match="cannot be written to, only read"):
            attempt()


def cut_off(path: Path) -> None:
    """Leave the journal of a write that was cut off: half of it is in the file."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")  # so that pages reach the file before the end
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE trial_user_attributes SET value_json = value_json || hex(zeroblob(20000))")
    copies = [(file, file.read_bytes()) for file in path.parent.iterdir()]
    connection.rollback()
    connection.close()
    for file, content in copies:
        file.write_bytes(content)
    assert (path.parent / "ledger.db-journal").stat().st_size


def test_a_cut_off_write_is_undone_before_a_read_only_ledger_is_read(path: Path) -> None:
    cut_off(path)
    with read_only(path.parent):
        assert seeds(path) == list(range(COUNT))
    assert seeds(path) == list(range(COUNT))


def test_a_log_beside_a_read_only_ledger_is_read_too(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    Ledger(str(path), TASK, TITLE).add(candidate(99), outcome(99))
    copy = path.with_name("copy.db")
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    connection.close()
    with read_only(path.parent):
        assert seeds(copy) == [*range(COUNT), 99]


def test_a_log_that_grows_beside_a_read_only_ledger_is_read_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user writes; for this one the ledger is read-only. Only the log changes, the file itself does not."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    writer = Ledger(str(path), TASK, TITLE)
    writer.add(candidate(98), outcome(98))
    before = path.read_bytes()
    may = os.access
    monkeypatch.setattr(os, "access", lambda place, mode: mode != os.W_OK and may(place, mode))
    assert seeds(path) == [*range(COUNT), 98]
    writer.add(candidate(99), outcome(99))
    assert path.read_bytes() == before
    assert seeds(path) == [*range(COUNT), 98, 99]
    connection.close()


def test_a_copy_that_finds_no_room_is_one_sentence_and_leaves_nothing_open(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray(path.read_bytes())
    content[4096:4196] = bytes(range(100))
    path.write_bytes(content)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def open_files() -> int:
        names = (os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd"))
        return sum(name.partition(" ")[0].endswith((".db", ".tmp")) for name in names)

    monkeypatch.setattr(RDBStorage, "create_new_trial", full)
    held = open_files()
    with pytest.raises(
        UserError, match=r"only be read through a copy, which .* does not take \(No space left on device\)"
    ):
        list_tasks(str(path))
    with pytest.raises(UserError, match="a sound one cannot be written beside it"):
        Ledger(str(path), TASK, TITLE)
    assert open_files() <= held  # garbage of other tests may have gone
    assert [file.name for file in path.parent.iterdir()] == ["ledger.db"]


def test_without_permission_it_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may = os.access
    monkeypatch.setattr(os, "access", lambda place, mode: mode != os.W_OK and may(place, mode))
    assert seeds(path) == list(range(COUNT))
    with pytest.raises(UserError, match="cannot be written to, only read"):
        Ledger(str(path), TASK, TITLE)


def test_a_locked_ledger_is_said_to_be_locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "LOCK_TIMEOUT", 0.05)
    monkeypatch.setattr(sqlite_file, "SAID_AFTER", 0.05)
    blocker = sqlite3.connect(path)
    blocker.execute("BEGIN EXCLUSIVE")
    for attempt in (
        lambda: Ledger(str(path), TASK, TITLE),
        lambda: Ledger.open_existing(str(path), TASK),
        lambda: list_tasks(str(path)),
        lambda: check_location(str(path)),
    ):
        with pytest.raises(UserError, match=r"is locked: another process .*; wait") as caught:
            attempt()
        assert "copy" not in str(caught.value)
    blocker.rollback()
    assert seeds(path) == list(range(COUNT))


def test_what_is_waited_for_is_said_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite_file, "SAID_AFTER", 0.05)
    assert seeds(path) == list(range(COUNT))
    assert caplog.messages == []
    blocker = sqlite3.connect(path, check_same_thread=False)
    blocker.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(1.0, blocker.rollback)
    release.start()
    check_location(str(path))
    release.join()
    assert [f"ledger {path} is locked by another process" in message for message in caplog.messages] == [True]


@pytest.mark.parametrize(
    "use",
    [
        lambda ledger: ledger.add(candidate(50), outcome(50)),
        lambda ledger: ledger.store_fact("dense", {"flops": 8}),
        lambda ledger: ledger.refresh(),
    ],
    ids=["add", "store_fact", "refresh"],
)
def test_a_search_that_waits_for_its_ledger_says_so_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, use: Callable[[Ledger], object]
) -> None:
    monkeypatch.setattr(sqlite_file, "SAID_AFTER", 0.2)
    with Ledger(str(path), TASK, TITLE) as ledger:
        blocker = sqlite3.connect(path, check_same_thread=False)
        blocker.execute("BEGIN EXCLUSIVE")
        release = threading.Timer(1.0, blocker.rollback)
        release.start()
        use(ledger)
        release.join()
        assert [f"ledger {path} is not free yet" in message for message in caplog.messages] == [True]
        caplog.clear()
        monkeypatch.setattr(sqlite_file, "SAID_AFTER", 60.0)
        use(ledger)
    assert caplog.messages == []


@pytest.mark.parametrize("gone", ["file", "folder"])
def test_a_ledger_that_is_gone_is_missed(path: Path, tmp_path: Path, gone: str) -> None:
    rescue = tmp_path / "unsaved.jsonl"
    ledger = Ledger(str(path), TASK, TITLE, rescue=rescue)
    path.unlink() if gone == "file" else shutil.rmtree(path.parent)
    with pytest.raises(LedgerError, match=r"not there any more.*unsaved\.jsonl"):
        ledger.add(candidate(100), outcome(100))
    assert not path.exists(), "no empty one is made in its place"
    with pytest.raises(LedgerError):
        ledger.close()
    again = Ledger(str(path), TASK, TITLE, rescue=rescue)
    assert [record.candidate.seed for record in again.records()] == [100]


def test_two_searches_go_on_with_the_ledger_that_one_of_them_mends(path: Path) -> None:
    first = Ledger(str(path), TASK, TITLE)
    first.add(candidate(100), outcome(100))
    content = bytearray(path.read_bytes())
    content[4096:4196] = os.urandom(100)
    path.write_bytes(content)
    second = Ledger(str(path), TASK, TITLE)
    assert "the damaged file is kept as ledger.db.damaged-" in second.notices[0]
    first.add(candidate(101), outcome(101))
    second.add(candidate(102), outcome(102))
    assert first.get(candidate(102).key(TASK)) is None
    first.refresh()
    assert first.get(candidate(102).key(TASK)) == outcome(102)
    assert seeds(path) == [*range(COUNT), 100, 101, 102]


def test_where_nothing_is_left_nothing_is_replaced(path: Path) -> None:
    content = os.urandom(path.stat().st_size)
    for damaged in (content, path.read_bytes()[:100] + content[100:], b"x"):
        path.write_bytes(damaged)
        for attempt in (
            lambda: Ledger(str(path), TASK, TITLE),
            lambda: list_tasks(str(path)),
            lambda: check_location(str(path)),
        ):
            with pytest.raises(UserError, match=r"(is not an SQLite database|cannot be read: it is damaged)"):
                attempt()
        assert path.read_bytes() == damaged
    assert [file.name for file in path.parent.iterdir()] == ["ledger.db"]


def test_changed_digits_are_damage(path: Path) -> None:
    content = path.read_bytes()
    assert content.count(b'\\"accuracy\\":0.501') == 1
    path.write_bytes(content.replace(b'\\"accuracy\\":0.501', b'\\"accuracy\\":0.901'))
    with Ledger.open_existing(str(path), TASK) as ledger:
        assert [record.candidate.seed for record in ledger.records()] == [0, 2, 3, 4]
        assert ledger.skipped == 1
        assert "1 in all" in ledger.notices[0]

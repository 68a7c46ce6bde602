"""Outcomes that cannot be written, to a locked file or a full disk, are kept until they can."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from ledger_samples import TASK, TITLE, candidate, outcome

from search.ledger import sqlite_file
from search.ledger.ledger import Ledger, LedgerError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "new" / "ledger.db")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "LOCK_TIMEOUT", 0.05)
    monkeypatch.setattr("time.sleep", lambda _: None)  # Optuna waits between its attempts


def test_a_locked_file_loses_nothing(path: str, tmp_path: Path, impatient: None) -> None:
    rescue = tmp_path / "run" / "rescue.jsonl"
    ledger = Ledger(path, TASK, TITLE, rescue=rescue)
    ledger.add(candidate(0), outcome(0))
    blocker = sqlite3.connect(path)
    blocker.execute("BEGIN EXCLUSIVE")
    for number in (1, 2):
        with pytest.raises(LedgerError, match=r"database is locked.*rescue\.jsonl"):
            ledger.add(candidate(number), outcome(number))
    assert ledger.get(candidate(1).key(TASK)) == outcome(1)
    assert len(rescue.read_text().splitlines()) == 2
    blocker.rollback()
    ledger.add(candidate(3), outcome(3))
    assert not rescue.exists()
    assert len(Ledger(path, TASK, TITLE).records()) == 4


def test_what_could_never_be_written_is_taken_in_at_the_next_start(path: str, tmp_path: Path, impatient: None) -> None:
    rescue = tmp_path / "rescue.jsonl"
    ledger = Ledger(path, TASK, TITLE, rescue=rescue)
    ledger.add(candidate(0), outcome(0))
    blocker = sqlite3.connect(path)
    blocker.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LedgerError):
        ledger.add(candidate(1), outcome(1), {"strategy": "tpe"})
    with pytest.raises(LedgerError):
        ledger.close()
    blocker.rollback()
    with rescue.open("a") as file:
        file.write('{"torn')
    again = Ledger(path, TASK, TITLE, rescue=rescue)
    assert again.skipped == 1
    assert not rescue.exists()
    plain = Ledger(path, TASK, TITLE)
    assert [record.meta for record in plain.records()] == [{}, {"strategy": "tpe"}]


FULL = """
import resource, signal, sys
from ledger_samples import candidate, outcome, TASK, TITLE
from search.ledger.ledger import Ledger, LedgerError
import time
time.sleep = lambda _: None
path, rescue, limited = sys.argv[1], sys.argv[2], sys.argv[3] == "limit"
ledger = Ledger(path, TASK, TITLE, rescue=rescue)
ledger.add(candidate(0), outcome(0))
if limited:
    import os
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = os.path.getsize(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20_000, resource.RLIM_INFINITY))
added, refused = 1, 0
while not refused and added < 5000:
    try:
        ledger.add(candidate(added), outcome(added), {"padding": "x" * 2000})
    except LedgerError as error:
        refused = 1
        print(error)
    added += 1
print(added, refused)
try:
    ledger.close()
except LedgerError:
    print("still pending")
"""


def fill_up(path: Path, rescue: Path, how: str) -> int:
    """Add until the disk is full, in a process of its own; how many were added, the refused one included."""
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    command = [sys.executable, "-c", FULL, str(path), str(rescue), how]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths},
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    message, counts, last = done.stdout.splitlines()
    assert message.startswith(f"could not write to ledger {path}")
    assert str(rescue) in message
    assert last == "still pending"
    added, refused = (int(count) for count in counts.split())
    assert refused == 1
    return added


@pytest.mark.kill
def test_a_file_that_may_not_grow_loses_nothing(tmp_path: Path) -> None:
    path, rescue = tmp_path / "ledger.db", tmp_path / "rescue.jsonl"
    added = fill_up(path, rescue, "limit")
    assert len(Ledger(str(path), TASK, TITLE).records()) == added - 1
    assert len(Ledger(str(path), TASK, TITLE, rescue=rescue).records()) == added


@pytest.mark.kill
def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs the superuser")
    try:
        path, rescue = disk / "ledger.db", tmp_path / "rescue.jsonl"
        added = fill_up(path, rescue, "disk")
        assert len(Ledger(str(path), TASK, TITLE).records()) == added - 1
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)  # somebody frees space
        assert len(Ledger(str(path), TASK, TITLE, rescue=rescue).records()) == added
        assert not rescue.exists()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)

"""Locks between processes: where their files lie, and who is kept waiting."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from models.errors import UserError
from models.locks import lock_folder, machine_lock

ROOT = Path(__file__).resolve().parents[2]
COUNT_UP = """
import sys, time
from pathlib import Path
from models.locks import machine_lock

counter = Path(sys.argv[1])
for _ in range(20):
    with machine_lock("counter"):
        number = int(counter.read_text())
        time.sleep(0.001)
        counter.write_text(str(number + 1))
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_one_process_at_a_time(temporary: Path) -> None:
    counter = temporary / "counter"
    counter.write_text("0")
    command = [sys.executable, "-c", COUNT_UP, str(counter)]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert counter.read_text() == "60"


def test_nothing_of_a_name_that_can_be_guessed_lies_where_others_write(temporary: Path) -> None:
    with machine_lock("data"):
        (folder,) = temporary.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder.stat().st_uid == os.getuid()


@pytest.mark.parametrize("kind", ["link", "open to others", "file"])
def test_a_folder_that_somebody_else_made_is_not_used(temporary: Path, kind: str) -> None:
    folder = lock_folder()
    folder.rmdir()
    if kind == "link":
        (temporary / "theirs").mkdir(mode=0o700)
        folder.symlink_to(temporary / "theirs")
    elif kind == "file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with pytest.raises(UserError, match="mode 0700; remove it, or set TMPDIR"), machine_lock("data"):
        pass

"""Whatever ends a command is one sentence and an exit code: 2 for the user to mend, 70 for a fault of ours."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import BaseModel

import run_search
from models.errors import UserError
from search.files.atomic import atomic_write
from search.ledger.location import public_location
from search.terminal.failures import explain_failure, report_failure

SCRIPT = str(Path(run_search.__file__).resolve())


class Narrow(BaseModel):
    number: int


def validation_error() -> Exception:
    try:
        return AssertionError(Narrow(number="x"))  # type: ignore[arg-type]
    except ValueError as error:
        return error


def named(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path) if path else OSError(number, os.strerror(number))


CASES = [
    (UserError("x 3 will not do;\n write 4"), 2, ["x 3 will not do; write 4"]),
    (named(errno.ENOSPC, "results/.run.json.123-ab12cd34.tmp"), 2, ["results/run.json", "No space left", "free space"]),
    (named(errno.EACCES, "out/.export.x1y2.tmp/model.onnx"), 2, ["out/export/model.onnx", "Permission denied"]),
    (named(errno.ENOSPC), 2, ["the system refused", "No space left on device"]),
    (named(errno.EMFILE), 2, ["Too many open files", "ulimit -n"]),
    (named(errno.ENOENT, "w.pt"), 2, ["w.pt", "No such file", "bring it back, or choose another place"]),
    (named(errno.ENOENT), 70, ["FileNotFoundError"]),
    (MemoryError(), 2, ["not enough memory"]),
    (KeyboardInterrupt(), 130, ["stopped"]),
    (validation_error(), 70, ["fault of ratio-search", "ValidationError", "details are in"]),
    (RecursionError("maximum recursion depth exceeded"), 70, ["RecursionError"]),
    (RuntimeError("one\ntwo\x1b[31m three"), 70, ["RuntimeError: one two three"]),
    (ZeroDivisionError(), 70, ["ZeroDivisionError"]),
]


@pytest.fixture(autouse=True)
def _details_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.parametrize(("error", "code", "words"), CASES, ids=lambda value: str(value)[:30])
def test_a_sentence_and_a_code(error: BaseException, code: int, words: list[str]) -> None:
    found, sentence = explain_failure(error)
    assert found == code
    assert "\n" not in sentence
    assert ".tmp" not in sentence
    assert "\x1b" not in sentence
    for word in words:
        assert word in sentence


def test_the_details_of_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    public_location("postgresql://me:Tr0ub4dor@host/db")
    with pytest.raises(RuntimeError) as fault:
        raise RuntimeError("connecting as me with Tr0ub4dor failed")
    assert report_failure(fault.value) == 70
    line = capsys.readouterr().err
    (file,) = tmp_path.iterdir()
    assert str(file) in line
    text = file.read_text()
    assert "test_the_details_of_a_fault" in text
    assert "RuntimeError" in text
    assert "Tr0ub4dor" not in text + line
    assert file.stat().st_mode & 0o077 == 0


def test_files_that_cannot_be_written_go_by_their_own_name(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder") as refusal:
        atomic_write(tmp_path / "folder", "text")
    assert refusal.value.filename == str(tmp_path / "folder")
    assert refusal.value.filename2 is None


@pytest.mark.slow
def test_an_interrupt_before_the_search_begins(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\npathlib.Path('here').touch()\ntime.sleep(60)\ndef net(classes): pass\n"
    )
    arguments = ["plan", "--network", "slow.py:net", "--data", "digits"]
    process = subprocess.Popen([sys.executable, SCRIPT, *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "here").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.strip() == "stopped"

"""Standard streams as shells, pipes and old terminals leave them; each case is a process as a user starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import run_search

pytestmark = pytest.mark.slow
SCRIPT = str(Path(run_search.__file__).resolve())
NETWORK = """
import atexit, ctypes, os, subprocess, sys, threading
import torch
from torch import nn

print("printed at import")
atexit.register(lambda: (print("printed at exit", flush=True), os.write(1, b"written at exit\\n")))

class Loud(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        print("printed by forward")
        sys.__stdout__.write("to the first stdout\\n")
        os.write(1, b"written to the descriptor\\n")
        ctypes.CDLL(None).puts(b"put by C")
        os.system("echo by a shell")
        return self.head(self.two(self.one(x).relu()).relu().mean((2, 3)))

def build(classes):
    subprocess.run([sys.executable, "-c", "print('by a child')"])
    return Loud(classes)

def fails(classes):
    raise RuntimeError("evil \\x1b[2J\\x1b]8;;http://example.org\\x07link\\x1b]8;;\\x07\\r\\a\\u202eesrever end")
"""
PLAN = ["plan", "--network", "loud.py:build", "--data", "digits"]
SEARCH = ["search", *PLAN[1:], "--epochs", "0", "--final-epochs", "0", "--final-seeds", "1", "--device", "cpu",
          "--strategy", "acra-uniform", "--train-images", "200", "--name", "run"]  # fmt: skip


def start(folder: Path, *arguments: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A command's exit code and streams; `shell` is what follows it on its line, as `| head -1`."""
    (folder / "loud.py").write_text(NETWORK)
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    if not shell:
        return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, cwd=folder, env=settings)
    line = f'"$0" "$@" {shell}'
    command = ["bash", "-o", "pipefail", "-c", line, sys.executable, SCRIPT, *arguments]
    return subprocess.run(command, capture_output=True, cwd=folder, env=settings)


def one_object(done: subprocess.CompletedProcess[bytes]) -> dict[str, object]:
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("encoding", ["idna", "undefined"])
@pytest.mark.parametrize("arguments", [["methods"], ["plan", "--network", "no-such-one"]])
def test_an_encoding_that_is_none_of_text_is_no_error(encoding: str, arguments: list[str], tmp_path: Path) -> None:
    expected = start(tmp_path, *arguments, PYTHONIOENCODING="ascii")
    assert expected.stdout + expected.stderr
    done = start(tmp_path, *arguments, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout, done.stderr) == (expected.returncode, expected.stdout, expected.stderr)


@pytest.mark.parametrize("command", [PLAN, [*SEARCH, "--workers", "0"]], ids=["plan", "search"])
def test_json_is_alone_whatever_a_network_prints(tmp_path: Path, command: list[str]) -> None:
    done = start(tmp_path, *command, "--json")
    one_object(done)
    for words in (b"printed by forward", b"written to the descriptor", b"by a shell", b"by a child", b"at exit"):
        assert words in done.stderr


@pytest.mark.ray
def test_json_is_alone_with_workers(tmp_path: Path) -> None:
    one_object(start(tmp_path, *SEARCH, "--workers", "2", "--json"))


def test_json_and_an_error(tmp_path: Path) -> None:
    done = start(tmp_path, "plan", "--network", "loud.py:fails", "--data", "digits", "--json")
    assert (done.returncode, done.stdout) == (2, b"")
    assert [line for line in done.stderr.decode().splitlines() if line.startswith("error: ")]


OLD = [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
       {"PYTHONIOENCODING": "cp1252:strict"}]  # fmt: skip


@pytest.mark.parametrize("environment", OLD, ids=["ascii", "C", "cp1252"])
def test_old_encodings(tmp_path: Path, environment: dict[str, str]) -> None:
    for arguments in ([*SEARCH, "--workers", "0", "--final-seeds", "2"], ["methods"]):
        done = start(tmp_path, *arguments, **environment)
        assert done.returncode == 0, done.stderr.decode()
        assert b"Traceback" not in done.stdout + done.stderr
        assert b"UnicodeEncodeError" not in done.stdout + done.stderr
        done.stdout.decode("cp1252" if "cp1252" in str(environment) else "ascii")
    for form in ("table", "md"):  # headings have a Greek letter
        board = start(tmp_path, "leaderboard", "--format", form, **environment)
        assert board.returncode == 0, board.stderr.decode()


@pytest.mark.parametrize("shell", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "| head -c 1", "2>&1 | head -c 1"])
def test_streams_that_are_closed(tmp_path: Path, shell: str) -> None:
    for arguments in (["networks"], ["networks", "--json"], ["plan", "--network", "no-such"]):
        done = start(tmp_path, *arguments, shell=shell)
        assert b"Traceback" not in done.stdout + done.stderr
        assert b"Exception ignored" not in done.stdout + done.stderr


def test_a_closed_stdout_does_not_end_up_in_the_ledger(tmp_path: Path) -> None:
    done = start(tmp_path, *SEARCH, "--workers", "0", shell=">&-")
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "results" / "ledger.db").read_bytes()[:16] == b"SQLite format 3\0"
    assert b"written to the descriptor" not in (tmp_path / "results" / "ledger.db").read_bytes()


def test_a_full_disk_behind_stdout_is_one_sentence(tmp_path: Path) -> None:
    done = start(tmp_path, "networks", shell=">/dev/full")
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert "No space left on device" in line


def test_a_search_whose_reader_leaves_ends_quietly_and_goes_on_later(tmp_path: Path) -> None:
    command = ["search", "--network", "small", *SEARCH[5:], "--workers", "0"]
    done = start(tmp_path, *command, shell="| head -n 1")
    assert done.stderr == b""
    assert done.returncode == 141
    again = start(tmp_path, *command)
    assert again.returncode == 0, again.stderr.decode()


def test_nothing_that_a_terminal_would_obey(tmp_path: Path) -> None:
    done = start(tmp_path, "plan", "--network", "loud.py:fails", "--data", "digits")
    line = done.stderr.decode().splitlines()[-1]
    assert "evil link" in line
    assert "esrever end" in line
    for char in ("\x1b", "\r", "\a", "\u202e"):
        assert char not in line

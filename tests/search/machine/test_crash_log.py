"""What a dead process left is read: the signal and the last frame of code that is not a library's."""

from __future__ import annotations

import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from search.machine.crash_log import describe_crash

ROOT = Path(__file__).parents[3]
FATAL = ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"]
LIBRARY = sysconfig.get_path("purelib")
CRASH = f"""Fatal Python error: Segmentation fault

Thread 0x00007f0000000001 (most recent call first):
  File "/home/me/other.py", line 3 in wait

Current thread 0x00007f0000000002 (most recent call first):
  File "<frozen importlib._bootstrap>", line 1 in load
  File "{LIBRARY}/torch/autograd/__init__.py", line 353 in backward
  File "{sysconfig.get_path("stdlib")}/contextlib.py", line 81 in inner
  File "/srv/anything/search/judge/finetune.py", line 101 in finetune
  File "/home/me/net.py", line 7 in forward

Extension modules: numpy._core._multiarray_umath, torch._C (total: 2)
"""


def test_the_innermost_frame_that_is_no_librarys_is_named() -> None:
    assert describe_crash(CRASH) == "SIGSEGV in search/judge/finetune.py:101 (finetune)"
    without_ours = CRASH.replace("/srv/anything/search/judge/finetune.py", f"{LIBRARY}/ray/worker.py")
    assert describe_crash(without_ours) == "SIGSEGV in net.py:7 (forward)"
    installed = CRASH.replace("/srv/anything/", f"{LIBRARY}/")
    assert describe_crash(installed) == "SIGSEGV in search/judge/finetune.py:101 (finetune)"


def test_a_crash_in_a_thread_without_python_names_a_frame_of_another() -> None:
    text = CRASH.replace("Current thread", "Thread")
    assert describe_crash(text) == "SIGSEGV in other.py:3 (wait)"
    assert describe_crash("Fatal Python error: Bus error\n\n<no Python frame>\n") == "SIGBUS"


@pytest.mark.parametrize(
    "text", ["", "candidate: {}\nprocess: 1 on host\n", "Current thread 0x1 (most recent call first):"]
)
def test_no_signal_is_no_crash(text: str) -> None:
    assert describe_crash(text) is None


@pytest.mark.kill
@pytest.mark.parametrize("name", FATAL)
def test_every_fatal_signal_is_said_on_standard_error(name: str, tmp_path: Path) -> None:
    """A real process dies of it; what it says after its death is one sentence."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal\n"
        "from search.machine.last_words import last_words\n"
        "def crash():\n"
        f"    os.kill(os.getpid(), signal.{name})\n"
        "with last_words('while it was tested', 'try again'):\n"
        "    crash()\n"
    )
    done = subprocess.run([sys.executable, script], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == -getattr(signal, name)
    assert done.stderr == f"error: the process died while it was tested: {name} in script.py:4 (crash); try again\n"


@pytest.mark.kill
def test_what_ends_all_processes_of_a_job_does_not_silence_it(tmp_path: Path) -> None:
    """The process dies of SIGTERM, and the one that reports it has been sent it too."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, subprocess, time\n"
        "from search.machine.last_words import last_words\n"
        "children = []\n"
        "class Popen(subprocess.Popen):\n"
        "    def __init__(self, *arguments, **options):\n"
        "        super().__init__(*arguments, **options)\n"
        "        children.append(self)\n"
        "subprocess.Popen = Popen\n"
        "with last_words('inside'):\n"
        "    time.sleep(1)\n"
        "    children[0].terminate()\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, script], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == -15
    assert done.stderr.startswith("error: the process died inside: no trace was left")


@pytest.mark.kill
def test_a_killed_process_is_missed_and_one_that_ends_is_not(tmp_path: Path) -> None:
    """The clause that holds is the innermost; nothing is said of a process that ends, whatever its exit code."""
    start = "import os, signal, sys\nfrom search.machine.last_words import last_words\n"
    for body, words in (
        ("os.kill(os.getpid(), signal.SIGKILL)", "error: the process died inside: no trace was left"),
        ("sys.exit(3)", ""),
        ("raise KeyboardInterrupt", "Traceback"),
    ):
        script = tmp_path / "script.py"
        script.write_text(f"{start}with last_words('outside'), last_words('inside'):\n    {body}\n")
        done = subprocess.run([sys.executable, script], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
        assert done.stderr.startswith(words)
        assert bool(done.stderr) == bool(words)
        assert "died" not in done.stderr or words.startswith("error")

"""Real searches whose process crashes, or is told to stop: what the user reads, and what goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from test_end_to_end import command
from test_search_faults import SCRIPT, started

pytestmark = [pytest.mark.kill, pytest.mark.slow]
LONG = ["--epochs", "200", "--name", "run"]

NETWORK = """
import ctypes
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.fc = nn.Linear(16, classes)

    def forward(self, x):
        x = F.relu(self.c2(F.relu(self.c1(x))))
        if self.training and self.c2.out_channels < 9 and len(x) > 16:
            ctypes.string_at(0)  # as native code does that goes wrong for narrow layers and large batches
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))

def build(classes, channels):
    torch.manual_seed(0)
    return Net(classes)
"""
WHERE = "SIGSEGV in net.py:16 (forward)"


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.ray)])
def test_a_crash_in_native_code_is_named_and_passed_over(workers: int, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    arguments = ["search", "--network", "net.py:build", "--data", "digits", "--name", "run", "--workers", str(workers),
                 "--strategy", "acra-uniform", "--target-flops", "0.8,0.4", "--epochs", "0.2", "--final-epochs", "0.2",
                 "--final-seeds", "1"]  # fmt: skip
    done = command(tmp_path, *arguments)
    for _ in range(2 if workers == 0 else 0):  # each attempt takes the whole process with it
        assert done.returncode == -signal.SIGSEGV
        sentence = done.stderr.splitlines()[-1]
        assert sentence.startswith("error: the process died while it judged ")
        assert sentence.endswith(f"{WHERE}; go on with: python run_search.py search --resume results/run")
        assert "Traceback" not in done.stderr
        assert "most recent call" not in done.stderr
        done = command(tmp_path, "search", "--resume", "results/run")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "results" / "run" / "candidates.csv")
    failed = table[table["status"] == "failed"]
    assert list(failed["reason"]) == [f"its {'worker' if workers else 'process'} died 2 times: {WHERE}"]
    assert (table["status"] == "ok").any()
    crashes = list((tmp_path / "results" / "run" / "crashes").iterdir())
    assert len(crashes) == 2
    assert all("Fatal Python error: Segmentation fault" in path.read_text() for path in crashes)


def test_train_says_of_what_it_died(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK.replace("< 9", "> 9"))
    done = command(tmp_path, "train", "--network", "net.py:build", "--data", "digits", "--out", "net.safetensors")
    assert done.returncode == -signal.SIGSEGV
    assert done.stderr.splitlines()[-1] == f"error: the process died while it trained the network: {WHERE}"


def wait_until(begun: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not begun():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the work was not begun"
        time.sleep(0.1)


def wait_for_candidate(folder: Path, process: subprocess.Popen[str]) -> None:
    wait_until(lambda: list((folder / "results" / "run").glob("crashes/*.txt")), process)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.ray)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_ends_the_search_at_once_with_its_last_line(
    workers: int, number: signal.Signals, tmp_path: Path
) -> None:
    """Both go to the whole group, as from a terminal or `timeout`; candidates would take minutes."""
    before = set(Path("/tmp").glob("rs-*"))
    process = started(tmp_path, *LONG, "--workers", str(workers))
    wait_for_candidate(tmp_path, process)
    mine = {path for path in set(Path("/tmp").glob("rs-*")) - before if _belongs_to(path, process.pid)}
    assert bool(mine) == bool(workers)
    for _ in range(2):
        os.killpg(process.pid, number)
        time.sleep(0.3)
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (130, "")
    last = out.splitlines()[-1]
    assert last == "stopped   nothing finished is lost; go on with: python run_search.py search --resume results/run"
    assert '"status": "stopped"' in (tmp_path / "results" / "run" / "run.json").read_text()
    assert not (tmp_path / "results" / "run" / "crashes").exists(), "nobody crashed"
    assert not [path for path in mine if path.exists()]


def _belongs_to(folder: Path, pid: int) -> bool:
    """Whether a temporary folder is the Ray session of that driver: its name ends with the number of the process."""
    return any(path.name.endswith(f"_{pid}") for path in folder.glob("r/session_*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_no_search_stops_alike(number: signal.Signals, tmp_path: Path) -> None:
    network = NETWORK.replace("ctypes.string_at(0)", "pass")
    (tmp_path / "net.py").write_text(network.replace("x = F.relu", "open('begun', 'w').close(); x = F.relu", 1))
    command_line = [sys.executable, str(SCRIPT), "train", "--network", "net.py:build", "--data", "digits",
                    "--epochs", "9000", "--out", "small.pt"]  # fmt: skip
    process = subprocess.Popen(command_line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until((tmp_path / "begun").exists, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (130, "stopped\n")
    assert list(tmp_path.glob("*.pt")) == []


def test_nohup_is_heeded(tmp_path: Path) -> None:
    script = (
        "import os, signal; from search.machine.signals import interrupt_on_signals\n"
        "with interrupt_on_signals(): os.kill(os.getpid(), signal.SIGHUP)\n"
        "print('still here')"
    )
    done = subprocess.run(["nohup", sys.executable, "-c", script], cwd=SCRIPT.parent, capture_output=True, text=True)
    assert done.stdout == "still here\n"


@pytest.mark.ray
def test_one_sigterm_stops_a_search_with_workers(tmp_path: Path) -> None:
    process = started(tmp_path, *LONG, "--workers", "2")
    wait_for_candidate(tmp_path, process)
    process.terminate()
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (130, "")
    assert out.splitlines()[-1].startswith("stopped   nothing finished is lost")

"""Real searches that lose the Ray they run on: their own process must live on, to say so and to write its report."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from processes import family, program
from test_deaths import LONG, wait_for_candidate
from test_search_faults import SCRIPT, SEARCH

pytestmark = [pytest.mark.ray, pytest.mark.kill, pytest.mark.slow]
RESUME = "go on with: python run_search.py search --resume results/run"
# A new process namespace, in which the search is a child of process 1, as below systemd or in a container. The shell
# must not become the search itself, so there is a command behind it.
BELOW_INIT = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", '"$@"; exit $?', "sh"]


@cache
def namespaces_allowed() -> bool:
    return subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True).returncode == 0


def started_below_init(folder: Path) -> subprocess.Popen[str]:
    if not namespaces_allowed():
        pytest.skip("process namespaces need the superuser")
    search = [sys.executable, str(SCRIPT), *SEARCH, *LONG, "--workers", "2"]
    return subprocess.Popen(
        [*BELOW_INIT, *search], cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def processes_of_search(process: subprocess.Popen[str]) -> list[int]:
    """The search itself and all that it has started, without the shell that it was started by."""
    return [pid for pid in family(process.pid) if program(pid) not in ("unshare", "sh")]


def test_a_signal_to_every_process_stops_a_search_as_ctrl_c_does(tmp_path: Path) -> None:
    """As systemd and Slurm send it: the raylet gets it too, and goes before the search has ended."""
    process = started_below_init(tmp_path)
    wait_for_candidate(tmp_path, process)
    for pid in processes_of_search(process):
        os.kill(pid, signal.SIGTERM)
    out, errors = process.communicate(timeout=240)
    assert (process.returncode, errors) == (130, "")
    assert out.splitlines()[-1] == f"stopped   nothing finished is lost; {RESUME}"
    folder = tmp_path / "results" / "run"
    assert '"status": "stopped"' in (folder / "run.json").read_text()
    assert (folder / "report.html").exists()
    assert not (folder / "crashes").exists(), "no candidate is at fault"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_search_whose_raylet_dies_says_so_and_blames_no_candidate(number: signal.Signals, tmp_path: Path) -> None:
    process = started_below_init(tmp_path)
    wait_for_candidate(tmp_path, process)
    raylets = [pid for pid in processes_of_search(process) if program(pid) == "raylet"]
    assert len(raylets) == 1
    os.kill(raylets[0], number)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2, errors
    assert errors.startswith("error: stopped by a fault of this machine, not of a candidate: Ray's raylet")
    assert errors.endswith(f"{RESUME}\n")
    assert errors.count("\n") == 1
    assert not (tmp_path / "results" / "run" / "crashes").exists(), "no candidate is at fault"

"""Real searches to which something happens: they end with the front of one that was left in peace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from test_end_to_end import SCRIPT, command, records, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.kill, pytest.mark.slow]
SEARCH = ["search", "--network", "small", "--train-images", "300", "--epochs", "0.5", "--scan-levels", "2",
          "--target-flops", "0.7,0.4", "--strategy", "acra-uniform,lagrangian", "--final-seeds", "2",
          "--final-epochs", "0.5", "--device", "cpu"]  # fmt: skip
MEASURED = ["stage", "status", "accuracy", "loss", "drift", "flops", "params"]


@pytest.fixture(scope="module")
def peaceful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search in one process."""
    folder = tmp_path_factory.mktemp("peaceful")
    done = command(folder, *SEARCH, "--workers", "0", "--name", "run")
    assert done.returncode == 0, done.stderr
    return folder


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *SEARCH, *arguments], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> None:
    try:
        _, errors = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


def outcomes(folder: Path) -> dict[str, list[object]]:
    """What the ledger says of every key, the first time."""
    found = reversed(records(folder / "results" / "ledger.db"))
    return {key: [(record["meta"] | record["outcome"]).get(name) for name in MEASURED] for key, record in found}


def same_answers(folder: Path, name: str, peaceful: Path) -> None:
    for table in ("candidates.csv", "pareto.csv", "finalists.csv"):
        one, other = (
            pd.read_csv(path / table).drop(columns=["seconds", "search_seconds", "device"], errors="ignore")
            for path in (folder / "results" / name, peaceful / "results" / "run")
        )
        pd.testing.assert_frame_equal(one, other)


def test_two_searches_at_once_on_one_ledger(peaceful: Path, tmp_path: Path) -> None:
    both = [started(tmp_path, "--workers", "0", "--name", name) for name in ("one", "other")]
    for process in both:
        ended(process)
    found = records(tmp_path / "results" / "ledger.db")
    assert outcomes(tmp_path) == outcomes(peaceful)
    assert len(found) <= len(outcomes(peaceful)) + 6, "each candidate is paid for once, but for what both begin at once"
    for name in ("one", "other"):
        same_answers(tmp_path, name, peaceful)


def workers_of(driver: int) -> Iterator[int]:
    """Processes of the driver's session that judge candidates."""
    for folder in Path("/proc").iterdir():
        try:
            judges = folder.name.isdigit() and b"ray::Worker" in (folder / "cmdline").read_bytes()
            if judges and _descends(int(folder.name), driver):
                yield int(folder.name)
        except OSError:
            continue


def _descends(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


def test_a_killed_worker_costs_nothing(peaceful: Path, tmp_path: Path) -> None:
    process = started(tmp_path, "--workers", "2", "--name", "run")
    wait_for(tmp_path / "results" / "ledger.db", 5, process, 120)
    victims = list(workers_of(process.pid))
    assert victims
    os.kill(victims[0], signal.SIGKILL)
    ended(process)
    assert outcomes(tmp_path) == outcomes(peaceful)
    same_answers(tmp_path, "run", peaceful)


def test_a_node_that_goes_costs_nothing(peaceful: Path, tmp_path: Path) -> None:
    """Two nodes of a real cluster, on this machine; one is taken away in the middle."""
    from search.dispatch.ray_environment import ray

    # isort: split
    from ray.cluster_utils import Cluster  # after the environment that Ray reads when it is imported

    if ray.is_initialized():
        ray.shutdown()
    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    try:
        second = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
        process = started(tmp_path, "--workers", "2", "--name", "run", "--ray-address", cluster.address)
        wait_for(tmp_path / "results" / "ledger.db", 5, process, 150)
        remover = threading.Thread(target=lambda: cluster.remove_node(second, allow_graceful=False))
        remover.start()
        ended(process)
        remover.join()
    finally:
        cluster.shutdown()
    assert outcomes(tmp_path) == outcomes(peaceful)
    same_answers(tmp_path, "run", peaceful)


NETWORK = """
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
        # as if half precision overflowed where few channels carry all, though not on the images that trials run
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1)) / (self.c2.out_channels > 6 or len(x) < 16)

def build(classes, channels):
    torch.manual_seed(0)
    return Net(classes)
"""


def test_candidates_that_are_not_numbers_fail_alone(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    arguments = ["--network", "net.py:build", "--data", "digits", "--workers", "0", "--name", "run"]
    arguments += ["--strategy", "random,lagrangian", "--trials", "6", "--target-flops", "0.4", "--bound", "c2=0.1..1"]
    ended(started(tmp_path, *arguments))
    found = records(tmp_path / "results" / "ledger.db")
    failed = [record for _, record in found if record["outcome"]["status"] == "failed"]
    assert failed
    assert all("not" in record["outcome"]["reason"] for record in failed)
    assert len(failed) < len(found)
    front = pd.read_csv(tmp_path / "results" / "run" / "pareto.csv")
    assert len(front)
    assert front["accuracy"].notna().all()
    page = (tmp_path / "results" / "run" / "report.html").read_text()
    assert "not finite" in page or "NaN" in page or "nan" in page

"""Ray as we start it: who can reach it, who can read its files, what is left when its driver is killed."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from processes import alive, family

from search.dispatch.scratch import scratch_folder

ROOT = Path(__file__).parents[3]
LISTENING = "0A"
DRIVER = """
import os, signal, threading, time
from search.dispatch.contract import Resources
from search.dispatch.ray_session import ray_session

stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
with ray_session(Resources(workers=1)):
    import ray

    @ray.remote
    def pid():
        return os.getpid()

    print(ray.get(pid.remote()), flush=True)
    while not stop.wait(0.1):
        pass
print("stopped", flush=True)
"""


def start_driver() -> tuple[subprocess.Popen[str], int]:
    """A process with Ray, and a worker of its."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER], env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def listening_addresses(pids: set[int]) -> list[str]:
    """Addresses, as the kernel writes them, on which these processes accept TCP connections."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes.add(os.readlink(link))
            except OSError:
                continue
    rows = [
        line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return [row[1].split(":")[0] for row in rows if row[3] == LISTENING and f"socket:[{row[9]}]" in inodes]


def is_loopback(address: str) -> bool:
    """127.0.0.1, that address mapped into IPv6, or ::1; each four bytes are written as one little-endian number."""
    return address in ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")


def folder_of(pid: int) -> Path:
    """The temporary folder of the session that a worker belongs to."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            path = Path(os.readlink(link))
        except OSError:
            continue
        if len(path.parts) > 3 and path.parts[2].startswith("rs-ray-"):
            return Path(*path.parts[:3])
    raise AssertionError("a worker without an open file in its session's folder")


@pytest.mark.ray
@pytest.mark.kill
def test_nobody_else_reaches_ray_and_sigterm_and_sigkill_leave_nothing() -> None:
    process, worker = start_driver()
    try:
        pids = set(family(process.pid))
        assert worker in pids
        addresses = listening_addresses(pids)
        assert len(addresses) >= 4, "the driver, the worker, the raylet and the control service"
        assert all(is_loopback(address) for address in addresses), addresses
        folder = folder_of(worker)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "stopped\n"), "our handler, not Ray's"
        assert not folder.exists()
        assert not any(alive(pid) for pid in pids)
    finally:
        process.kill()


@pytest.mark.ray
@pytest.mark.kill
def test_the_next_start_removes_the_folder_of_a_killed_driver() -> None:
    process, worker = start_driver()
    folder = folder_of(worker)
    with scratch_folder("test") as mine:
        assert folder.exists(), "its driver is alive"
        process.kill()
        process.communicate()
        assert folder.exists()
        with scratch_folder("test"):
            assert not folder.exists()
        assert Path(mine).exists(), "ours is locked"

"""optuna-dashboard opens a ledger that a search is writing."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from board_fakes import filled, final, judged

from search.ledger.ledger import Ledger


@pytest.fixture
def dashboard(tmp_path: Path) -> Iterator[tuple[Ledger, str]]:
    """A ledger that a search still has open, and the dashboard on its file."""
    pytest.importorskip("optuna_dashboard")
    path = tmp_path / "ledger.db"
    ledger = filled(str(path))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("optuna-dashboard")
    words = [str(program), f"sqlite:///{path}", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield ledger, f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=30)
            ledger.close()


def fetch(url: str, patience: float = 120) -> str:
    """What a server that may still be starting answers."""
    end = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return str(answer.read().decode())
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.3)


def test_optuna_dashboard_opens_a_running_search(dashboard: tuple[Ledger, str]) -> None:
    ledger, url = dashboard
    assert "<html" in fetch(f"{url}/dashboard/").lower()
    (study,) = [each for each in json.loads(fetch(f"{url}/api/studies"))["study_summaries"]
                if each["study_name"].endswith("/ test")]  # fmt: skip
    before = json.loads(fetch(f"{url}/api/studies/{study['study_id']}?after=0"))["trials"]
    assert sum(trial["state"] == "Complete" for trial in before) == 12
    ledger.add(final("taylor", 0.5, seed=1), judged(0.5, 0.5))  # the search goes on meanwhile
    end, after = time.monotonic() + 120, before
    while len(after) == len(before) and time.monotonic() < end:  # it looks into the file every ten seconds
        time.sleep(1)
        after = json.loads(fetch(f"{url}/api/studies/{study['study_id']}?after=0"))["trials"]
    assert len(after) == len(before) + 1

"""Candidates that bring down this very process: known as such at the next start, judged once more, then given up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from dispatch_fakes import ListSource, candidate, factory

from search.dispatch.attempts import NO_MEMORY, AttemptLog
from search.dispatch.contract import Resources
from search.dispatch.loop import dispatch

HELPERS = Path(__file__).parents[1]
ROOT = HELPERS.parents[1]
DRIVER = """
import json, signal, sys
from pathlib import Path
import dispatch_fakes as fakes
from search.dispatch.attempts import AttemptLog
from search.dispatch.contract import Resources
from search.dispatch.loop import dispatch
from search.engine.stopping import stop_signals

attempts = AttemptLog(Path("crashes"), advice="go on")
source = fakes.ListSource([fakes.candidate(i, **options) for i, options in enumerate(json.loads(sys.argv[1]))])
with stop_signals() as signals, signals.while_judging(attempts):
    dispatch(source, fakes.factory, Resources(), stop=signals.stop, attempts=attempts)
print(json.dumps([source.outcomes[i].reason for i in sorted(source.outcomes)]))
"""


def start_driver(folder: Path, options: list[dict[str, Any]]) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HELPERS)])}
    command = [sys.executable, "-c", DRIVER, json.dumps(options)]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def drive(folder: Path, options: list[dict[str, Any]]) -> tuple[int, str, str]:
    process = start_driver(folder, options)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.kill
def test_a_candidate_that_crashes_its_process_has_two_attempts(tmp_path: Path) -> None:
    options: list[dict[str, Any]] = [{}, {"crash": "SIGSEGV"}, {}]
    for _ in range(2):
        code, out, err = drive(tmp_path, options)
        assert (code, out) == (-signal.SIGSEGV, "")
        assert err.count("\n") == 1
        assert "SIGSEGV in search/dispatch_fakes.py" in err
        assert err.endswith("; go on\n")
    code, out, err = drive(tmp_path, options)
    assert (code, err) == (0, "")
    first, crashed, last = json.loads(out)
    assert (first, last) == (None, None)
    assert crashed.startswith("its process died 2 times: SIGSEGV in search/dispatch_fakes.py:")
    assert crashed.endswith("(_misbehave)")
    assert "Fatal Python error: Segmentation fault" in "".join(path.read_text() for path in tmp_path.glob("crashes/*"))
    # It has been told as failed, so whoever asks again begins again.
    assert drive(tmp_path, options)[0] == -signal.SIGSEGV


@pytest.mark.kill
def test_one_death_is_forgiven_and_both_kinds_are_told(tmp_path: Path) -> None:
    options = [{"die_once": str(tmp_path / "died")}]
    assert drive(tmp_path, options)[0] == -signal.SIGKILL
    assert drive(tmp_path, options)[:2] == (0, "[null]\n")
    options = [{"die_once": str(tmp_path / "again"), "crash": "SIGABRT"}]
    assert [drive(tmp_path, options)[0] for _ in range(2)] == [-signal.SIGKILL, -signal.SIGABRT]
    reason = json.loads(drive(tmp_path, options)[1])[0]
    assert reason.startswith("its process died 2 times: no trace was left")
    assert ", then SIGABRT in search/dispatch_fakes.py:" in reason


@pytest.mark.kill
def test_a_process_that_is_killed_while_it_stops_is_no_candidates_fault(tmp_path: Path) -> None:
    """What Slurm and containers do: SIGTERM, and SIGKILL to whoever takes too long."""
    log = tmp_path / "log"
    options = [{"sleep": 100, "log": str(log)}]
    for _ in range(3):
        log.unlink(missing_ok=True)
        process = start_driver(tmp_path, options)
        while not log.exists():
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        time.sleep(1)
        process.kill()
        process.communicate(timeout=60)
    assert AttemptLog(tmp_path / "crashes").past_deaths(candidate(0, **options[0])) == []


def test_nothing_stays_of_candidates_that_are_survived(tmp_path: Path) -> None:
    source = ListSource([candidate(0), candidate(1, raises="ValueError"), candidate(2)])
    dispatch(source, factory, Resources(), attempts=AttemptLog(tmp_path / "crashes"))
    assert len(source.outcomes) == 3
    assert not (tmp_path / "crashes").exists()


def test_a_folder_that_cannot_be_written_keeps_nobody_from_being_judged(tmp_path: Path) -> None:
    (tmp_path / "crashes").write_text("a file")
    source = ListSource([candidate(0)])
    dispatch(source, factory, Resources(), attempts=AttemptLog(tmp_path / "crashes"))
    assert source.outcomes[0].status == "ok"


def test_a_workers_death_counts_once_the_driver_has_noted_it(tmp_path: Path) -> None:
    """Workers die with their driver; that alone says nothing of the candidate."""
    attempts, chosen = AttemptLog(tmp_path), candidate(7)
    file = attempts.next_file(chosen)
    assert file is not None
    file.write_text(f"candidate: {chosen.model_dump_json()}\nworker: 1 on host\n")
    assert attempts.past_deaths(chosen) == []
    attempts.note_death(file, chosen, NO_MEMORY)
    later = AttemptLog(tmp_path)
    assert later.past_deaths(chosen) == [NO_MEMORY]
    assert later.past_deaths(candidate(8)) == []
    assert later.next_file(chosen) != file
    later.settle_deaths(chosen)
    assert AttemptLog(tmp_path).past_deaths(chosen) == []
    assert file.exists(), "what it died of can still be read"

"""What fails for real: workers and drivers killed, candidates that hang, nodes that go. Real processes throughout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dispatch_fakes as fakes
import pytest
from dispatch_fakes import ListSource, candidate, expected_accuracy, factory
from processes import alive

from models.errors import UserError
from search.dispatch.contract import Resources
from search.dispatch.loop import dispatch
from search.ledger.ledger import Ledger

pytestmark = [pytest.mark.ray, pytest.mark.kill]

HELPERS = Path(__file__).parents[1]
ROOT = HELPERS.parents[1]


@pytest.fixture(scope="module")
def by_value() -> Iterator[None]:
    """Workers cannot import this folder's modules."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(fakes)
    yield
    cloudpickle.unregister_pickle_by_value(fakes)


@pytest.fixture(scope="module")
def session(by_value: None) -> Iterator[None]:
    from search.dispatch.ray_session import ray_session

    with ray_session(Resources(workers=2)):
        yield


def attempts(log: Path) -> Counter[int]:
    """How often each seed was begun, in whatever process."""
    return Counter(int(line.split()[0]) for line in log.read_text().splitlines())


def test_killed_workers_and_hanging_candidates_cost_no_other(session: None, tmp_path: Path) -> None:
    log = tmp_path / "log"
    troubles: dict[int, dict[str, Any]] = {
        1: {"die_once": str(tmp_path / "died")},
        3: {"die": True},
        5: {"hang": "sleep"},
        6: {"hang": "holding the interpreter"},
        9: {"crash": "SIGSEGV"},
        10: {"crash": "SIGTERM"},  # as if somebody had told the worker to go, and not the candidate's own exit
    }
    source = ListSource([candidate(i, log=str(log), **troubles.get(i, {})) for i in range(11)])
    begin = time.monotonic()
    dispatch(source, factory, Resources(workers=2, time_limit=4))
    assert time.monotonic() - begin < 150
    assert sorted(source.outcomes) == list(range(11))
    good = {seed: outcome.score for seed, outcome in source.outcomes.items() if outcome.status == "ok"}
    assert good == {seed: expected_accuracy(seed) for seed in (0, 1, 2, 4, 7, 8)}
    for killed in (3, 10):
        reason = source.outcomes[killed].reason or ""
        assert reason.startswith("its worker died 2 times: no trace was left, as by SIGKILL")
    crashed = source.outcomes[9].reason or ""
    assert crashed.startswith("its worker died 2 times: SIGSEGV in search/dispatch_fakes.py:")
    assert crashed.endswith("(_misbehave)")
    for hanging in (5, 6):
        assert source.outcomes[hanging].reason == "took longer than the time limit of 4 s"
        assert 4 <= source.outcomes[hanging].seconds < 30
    assert attempts(log) == {seed: 2 if seed in (1, 3, 9, 10) else 1 for seed in range(11)}


def start_driver(
    ledger: Path, count: int, workers: int, options: dict[str, Any], **environment: str
) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        str(HELPERS / "dispatch_fakes.py"),
        str(ledger),
        str(count),
        str(workers),
        json.dumps(options),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen(command, env=environment, cwd=ledger.parent, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def seeds(ledger: Path) -> list[int]:
    if not ledger.exists():
        return []
    try:
        return [record.candidate.seed for record in Ledger(str(ledger), "fake-task", "fake").records()]
    except UserError:
        return []  # its tables are being made


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_killed_driver_repeats_and_loses_nothing(tmp_path: Path) -> None:
    ledger, log = tmp_path / "ledger.db", tmp_path / "log"
    options = {"sleep": 0.3, "log": str(log)}
    driver = start_driver(ledger, 12, 2, options)
    wait_for(lambda: lines(log) >= 5)
    driver.kill()
    driver.wait()
    known = seeds(ledger)
    workers = {int(line.split()[1]) for line in log.read_text().splitlines()}
    assert 1 <= len(known) < 12
    wait_for(lambda: not any(alive(pid) for pid in workers), 30)  # nobody goes on in the dark
    begun = attempts(log)
    driver = start_driver(ledger, 12, 2, options)
    out, err = driver.communicate(timeout=120)
    assert (driver.returncode, out, err) == (0, "", "")  # and Ray says nothing on the terminal
    assert sorted(seeds(ledger)) == list(range(12))
    repeated = attempts(log) - begun
    assert sorted(repeated) == sorted(set(range(12)) - set(known))
    assert set(repeated.values()) == {1}


def test_ctrl_c_twice_ends_everything_at_once(tmp_path: Path) -> None:
    ledger, log = tmp_path / "ledger.db", tmp_path / "log"
    driver = start_driver(ledger, 9, 2, {"sleep": 300, "log": str(log)})
    wait_for(lambda: lines(log) == 2)
    workers = {int(line.split()[1]) for line in log.read_text().splitlines()}
    begin = time.monotonic()
    for _ in range(2):  # the terminal sends it to every process of the group
        os.killpg(driver.pid, signal.SIGINT)
        time.sleep(0.2)
    out, err = driver.communicate(timeout=60)
    assert time.monotonic() - begin < 20
    assert (driver.returncode, out, err) == (0, "", "")
    assert not any(alive(pid) for pid in workers)
    assert lines(log) == 2
    assert seeds(ledger) == []


def test_a_worker_killed_from_outside_costs_no_candidate(tmp_path: Path) -> None:
    ledger, log = tmp_path / "ledger.db", tmp_path / "log"
    driver = start_driver(ledger, 6, 2, {"sleep": 1.0, "log": str(log)})
    wait_for(lambda: lines(log) >= 2)
    os.kill(int(log.read_text().splitlines()[-1].split()[1]), signal.SIGKILL)
    out, err = driver.communicate(timeout=120)
    assert (driver.returncode, out, err) == (0, "", "")
    assert sorted(seeds(ledger)) == list(range(6))
    assert all(record.outcome.status == "ok" for record in Ledger(str(ledger), "fake-task", "fake").records())
    assert sum(attempts(log).values()) == 7


def test_a_candidate_that_eats_the_memory_is_killed_and_the_others_are_judged(tmp_path: Path) -> None:
    """Ray's memory monitor ends it as it would at the machine's limit, which is set where a few GiB reach it.

    Candidates are short: the worker that Ray ends beside the guilty one is at any point of its work.
    """
    rows = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    memory, room = {name: int(kib) * 1024 for name, kib, *_ in rows}, 4 * 2**30
    if memory["MemAvailable:"] < 2 * room:
        pytest.skip("needs 8 GiB of free memory")
    ledger, log = tmp_path / "ledger.db", tmp_path / "log"
    threshold = 1 - (memory["MemAvailable:"] - room) / memory["MemTotal:"]
    environment = {"RAY_memory_usage_threshold": f"{threshold:.4f}", "RAY_memory_monitor_refresh_ms": "100"}
    driver = start_driver(ledger, 30, 2, {"hungry": 2, "sleep": 0.1, "log": str(log)}, **environment)
    out, err = driver.communicate(timeout=200)
    assert (driver.returncode, out, err) == (0, "", "")
    outcomes = {each.candidate.seed: each.outcome for each in Ledger(str(ledger), "fake-task", "fake").records()}
    assert {seed: outcome.status for seed, outcome in outcomes.items()} == {
        seed: "failed" if seed == 2 else "ok" for seed in range(30)
    }
    assert outcomes[2].reason == "its worker died 2 times: the machine ran out of memory"
    assert attempts(log)[2] == 2


def test_a_cluster_goes_on_without_the_node_that_went(by_value: None, tmp_path: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    if ray.is_initialized():
        ray.shutdown()  # the session of the tests above
    log = tmp_path / "log"
    small = {"num_cpus": 1, "object_store_memory": 80 * fakes.MIB, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    try:
        second = cluster.add_node(num_cpus=1, object_store_memory=80 * fakes.MIB)
        source = ListSource([candidate(i, sleep=1.0, log=str(log)) for i in range(10)])
        begin = time.monotonic()

        def remove_node() -> None:
            wait_for(lambda: lines(log) >= 4)
            cluster.remove_node(second, allow_graceful=False)

        remover = threading.Thread(target=remove_node)
        remover.start()
        dispatch(source, factory, Resources(workers=2, ray_address=cluster.address))
        remover.join()
        assert time.monotonic() - begin < 150
        assert not ray.is_initialized()
        pids = [pid for pid in source.notes("pid") if pid is not None]
        assert sorted(source.outcomes) == list(range(10))
        assert all(outcome.status == "ok" for outcome in source.outcomes.values())
        assert len(set(pids)) >= 2
        assert sum(attempts(log).values()) <= 11
    finally:
        cluster.shutdown()

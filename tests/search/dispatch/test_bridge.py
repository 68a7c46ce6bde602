"""What becomes of candidates whose workers die: one more try, alone if it was for memory."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dispatch_fakes import ListSource, candidate

from search.candidate import Outcome
from search.dispatch.attempts import AttemptLog
from search.dispatch.bridge import Bridge
from search.dispatch.contract import Resources
from search.dispatch.ray_environment import tune
from search.judge.faults import MachineFaultError

FINISHED = tune.search.Searcher.FINISHED
FULL = "OutOfMemoryError: Task was killed due to the node running low on memory."
NODE = "The actor died because its node has died. Node Id: 1"
DIED = "The actor died unexpectedly before finishing this task."
SEGV = """Fatal Python error: Segmentation fault

Current thread 0x1 (most recent call first):
  File "/home/me/net.py", line 3 in f
"""


def bridge_of(count: int, folder: Path) -> tuple[Any, ListSource]:
    source = ListSource([candidate(i) for i in range(count)])
    return Bridge(source, Resources(workers=2), None, AttemptLog(folder)), source


def lose(bridge: Any, name: str, error: str) -> None:
    """As Tune tells it: first that the trial ended, then of what."""
    bridge.on_trial_complete(name, error=True)
    bridge.handle_death(name, error)


def seed_of(suggested: Any) -> int:
    return int(json.loads(suggested["candidate"])["seed"])


def good(number: int) -> dict[str, Any]:
    return {"outcome": Outcome(status="ok", accuracy=0.5, loss=1.0, flops=number).model_dump_json()}


def test_who_lost_its_worker_to_a_full_memory_is_judged_once_more_alone(tmp_path: Path) -> None:
    """Ray may end the innocent beside the guilty: each is tried alone, in turn, and nobody else meanwhile."""
    bridge, source = bridge_of(3, tmp_path)
    assert [seed_of(bridge.suggest(name)) for name in ("a", "b")] == [0, 1]
    for name in ("a", "b"):
        lose(bridge, name, FULL)
    assert seed_of(bridge.suggest("c")) == 0
    assert bridge.suggest("d") is None, "nothing beside it"
    lose(bridge, "c", FULL)
    assert source.outcomes[0].reason == "its worker died 2 times: the machine ran out of memory"
    assert seed_of(bridge.suggest("e")) == 1
    assert bridge.suggest("f") is None
    bridge.on_trial_complete("e", good(1))
    assert seed_of(bridge.suggest("g")) == 2
    bridge.on_trial_complete("g", good(2))
    assert bridge.suggest("h") == FINISHED
    assert [source.outcomes[i].status for i in range(3)] == ["failed", "ok", "ok"]


def test_a_second_death_that_is_for_memory_still_has_its_try_alone(tmp_path: Path) -> None:
    bridge, source = bridge_of(2, tmp_path)
    assert seed_of(bridge.suggest("a")) == 0
    lose(bridge, "a", DIED)
    assert seed_of(bridge.suggest("b")) == 0
    lose(bridge, "b", FULL)
    assert seed_of(bridge.suggest("c")) == 0
    assert bridge.suggest("d") is None
    bridge.on_trial_complete("c", good(0))
    assert source.outcomes[0].status == "ok"
    lose(bridge, "gone", FULL)  # of a trial that is not there any more


def test_the_reason_names_what_every_worker_died_of(tmp_path: Path) -> None:
    bridge, source = bridge_of(1, tmp_path)
    for name in ("a", "b"):
        config = bridge.suggest(name)
        Path(config["attempt_file"]).write_text(f"candidate: {config['candidate']}\nworker: 1 on host\n{SEGV}")
        lose(bridge, name, DIED)
    assert source.outcomes[0].reason == "its worker died 2 times: SIGSEGV in net.py:3 (f)"


def test_deaths_of_before_the_driver_was_stopped_count(tmp_path: Path) -> None:
    bridge, _ = bridge_of(2, tmp_path)
    config = bridge.suggest("a")
    lose(bridge, "a", DIED)
    record = Path(config["attempt_file"]).read_text()
    assert f" {os.getpid()} " not in record, "the driver's number is not the worker's"
    bridge, source = bridge_of(2, tmp_path)
    assert seed_of(bridge.suggest("a")) == 0
    assert seed_of(bridge.suggest("b")) == 1
    lose(bridge, "a", DIED)
    assert (source.outcomes[0].reason or "").startswith("its worker died 2 times: no trace was left")
    lose(bridge, "b", DIED)
    assert seed_of(bridge.suggest("c")) == 1


def test_the_death_of_a_machine_is_not_held_against_its_candidate(tmp_path: Path) -> None:
    bridge, source = bridge_of(1, tmp_path)
    for name in ("a", "b"):
        assert seed_of(bridge.suggest(name)) == 0
        lose(bridge, name, NODE)
    bridge, source = bridge_of(1, tmp_path)  # nor is it after a resumption
    for name, error in (("a", NODE), ("b", DIED), ("c", NODE)):
        assert seed_of(bridge.suggest(name)) == 0
        lose(bridge, name, error)
    assert seed_of(bridge.suggest("d")) == 0
    bridge.on_trial_complete("d", good(0))
    assert source.outcomes[0].status == "ok"


def test_machines_that_go_without_end_stop_the_search(tmp_path: Path) -> None:
    bridge, source = bridge_of(1, tmp_path)
    names = iter("abcdefgh")
    while bridge.suggest(name := next(names)) not in (None, FINISHED):
        lose(bridge, name, NODE)
    assert isinstance(bridge.error, MachineFaultError)
    assert source.outcomes == {}
    assert list(tmp_path.iterdir()) == [], "no death is remembered"


def test_where_rays_own_process_for_this_machine_died_no_worker_is_waited_for(tmp_path: Path) -> None:
    bridge, source = bridge_of(1, tmp_path)
    bridge.suggest("a")
    lose(bridge, "a", "The actor is dead because its owner has died. Worker exit detail: Owner's node has crashed.")
    assert bridge.done
    assert isinstance(bridge.error, MachineFaultError)
    assert source.outcomes == {}


def test_a_crash_on_a_machine_that_went_is_the_candidates(tmp_path: Path) -> None:
    bridge, source = bridge_of(1, tmp_path)
    for name in ("a", "b"):
        config = bridge.suggest(name)
        Path(config["attempt_file"]).write_text(f"candidate: {config['candidate']}\nworker: 1 on host\n{SEGV}")
        lose(bridge, name, NODE)
    assert source.outcomes[0].reason == "its worker died 2 times: SIGSEGV in net.py:3 (f)"


def test_what_ran_when_tunes_loop_failed_is_judged_by_the_next(tmp_path: Path) -> None:
    bridge, source = bridge_of(2, tmp_path)
    for name in ("a", "b"):
        bridge.suggest(name)
    bridge.requeue_running("AttributeError: no attribute '_actor_cache'", at_fault=False)
    assert sorted(seed_of(bridge.suggest(name)) for name in ("c", "d")) == [0, 1]
    bridge.requeue_running(f"RuntimeError: Caught unexpected exception\n{FULL}", at_fault=True)
    first = seed_of(bridge.suggest("e"))
    assert bridge.suggest("f") is None, "each is tried alone"
    bridge.on_trial_complete("e", good(first))
    bridge.suggest("g")
    bridge.requeue_running(FULL, at_fault=True)
    assert source.outcomes[first].status == "ok"
    assert source.outcomes[1 - first].reason == "its worker died 2 times: the machine ran out of memory"

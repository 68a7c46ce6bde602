"""What becomes of candidates whose workers die: one more try, alone if it was for memory."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from dispatch_fakes import ListSource, candidate

from search.candidate import Outcome
from search.dispatch.loop import Resources
from search.dispatch.on_ray import _Bridge, _Controller

# isort: split
from ray.exceptions import ActorDiedError, OutOfMemoryError  # after on_ray, which sets what Ray reads when imported
from ray.tune.search import Searcher


def bridge_of(count: int) -> tuple[Any, ListSource]:
    source = ListSource([candidate(i) for i in range(count)])
    return _Bridge(source, Resources(workers=2), None), source


def seed_of(suggested: Any) -> int:
    return int(json.loads(suggested["candidate"])["seed"])


def good(number: int) -> dict[str, Any]:
    return {"outcome": Outcome(status="ok", accuracy=0.5, loss=1.0, flops=number).model_dump_json()}


def test_who_lost_its_worker_to_a_full_memory_is_judged_once_more_alone() -> None:
    """Ray may end the innocent beside the guilty: each is tried alone, in turn, and nobody else meanwhile."""
    bridge, source = bridge_of(3)
    assert [seed_of(bridge.suggest(name)) for name in ("a", "b")] == [0, 1]
    for name in ("a", "b"):
        bridge.out_of_memory(name)
        bridge.on_trial_complete(name, error=True)
    assert seed_of(bridge.suggest("c")) == 0
    assert bridge.suggest("d") is None, "nothing beside it"
    bridge.out_of_memory("c")
    bridge.on_trial_complete("c", error=True)
    assert source.outcomes[0].reason == "its worker died 2 times (the machine ran out of memory)"
    assert seed_of(bridge.suggest("e")) == 1
    assert bridge.suggest("f") is None
    bridge.on_trial_complete("e", good(1))
    assert seed_of(bridge.suggest("g")) == 2
    bridge.on_trial_complete("g", good(2))
    assert bridge.suggest("h") == Searcher.FINISHED
    assert [source.outcomes[i].status for i in range(3)] == ["failed", "ok", "ok"]


def test_a_second_death_that_is_for_memory_still_has_its_try_alone() -> None:
    bridge, source = bridge_of(2)
    assert seed_of(bridge.suggest("a")) == 0
    bridge.on_trial_complete("a", error=True)  # crashed
    assert seed_of(bridge.suggest("b")) == 0
    bridge.out_of_memory("b")
    bridge.on_trial_complete("b", error=True)
    assert seed_of(bridge.suggest("c")) == 0
    assert bridge.suggest("d") is None
    bridge.on_trial_complete("c", good(0))
    assert source.outcomes[0].status == "ok"
    bridge.out_of_memory("gone")  # of a trial that is not there any more


def test_what_a_death_for_memory_takes_along_is_let_go() -> None:
    """Idle workers, which Ray may have ended too, and the greeting that Tune would read; of others, the greeting."""
    controller: Any = object.__new__(_Controller)
    heard, cleaned = list[str](), list[bool]()
    controller._cleanup_cached_actors = lambda force_all: cleaned.append(force_all)
    controller._search_alg = SimpleNamespace(searcher=SimpleNamespace(out_of_memory=heard.append))
    trials = {name: SimpleNamespace(trial_id=name, _default_result_or_future="a future") for name in ("a", "b")}
    controller._actor_to_trial = trials
    controller._hear("a", OutOfMemoryError("full"))
    controller._hear("b", ActorDiedError())
    controller._hear("idle", OutOfMemoryError("full"))
    assert (heard, cleaned) == (["a"], [True, True])
    assert [trial._default_result_or_future for trial in trials.values()] == [None, None]

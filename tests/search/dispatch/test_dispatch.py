"""Dispatching: every candidate judged once, in order, whatever happens inside it."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import dispatch_fakes as fakes
import pytest
from dispatch_fakes import GenerationSource, ListSource, candidate, expected_accuracy, factory

from models.errors import UserError
from search.candidate import Candidate, Outcome
from search.dispatch.contract import Resources
from search.dispatch.evaluation import judge_candidate
from search.dispatch.loop import dispatch
from search.dispatch.ray_session import cpus_per_worker, ray_session
from search.machine.host import count_cores

# isort: split

HERE = Resources()
TWO = Resources(workers=2)

TROUBLE: list[tuple[dict[str, Any], str]] = [
    ({"raises": "ValueError"}, "ValueError: two lines"),
    ({"raises": "SystemExit"}, "SystemExit: 3"),
    ({"raises": "MemoryError"}, "ran out of memory, MemoryError"),
    ({"raises": "cuda"}, "ran out of memory, OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB"),
    ({"raises": "cpu"}, "ran out of memory, RuntimeError"),
    ({"raises": "really"}, "ran out of memory, RuntimeError"),
    ({"loss": "nan"}, "diverged: its loss is nan"),
    ({"loss": "inf"}, "diverged: its loss is inf"),
    ({"accuracy": "nan"}, "diverged: its accuracy is nan"),
]


def run(source: ListSource, resources: Resources, make: Callable[[], Any] = factory, **extra: Any) -> None:
    dispatch(source, make, resources, on_start=source.started, **extra)


# In process


def test_every_candidate_is_asked_started_and_told_in_turn() -> None:
    source = ListSource([candidate(i) for i in range(3)])
    run(source, HERE)
    assert source.events == [(what, i) for i in range(3) for what in ("ask", "start", "tell")]
    assert [outcome.score for outcome in source.outcomes.values()] == [expected_accuracy(i) for i in range(3)]


@pytest.mark.parametrize(("options", "reason"), TROUBLE)
def test_trouble_inside_a_candidate_becomes_its_reason(options: dict[str, Any], reason: str) -> None:
    source = ListSource([candidate(0, **options), candidate(1)])
    run(source, HERE)
    assert source.outcomes[0].status == "failed"
    assert source.outcomes[0].score is None
    assert (source.outcomes[0].reason or "").startswith(reason)
    assert source.outcomes[1].status == "ok"


def test_a_long_message_is_cut() -> None:
    def evaluate(_: Candidate) -> Outcome:
        raise ValueError("x" * 10_000)

    assert len(judge_candidate(evaluate, candidate()).reason or "") < 400


def test_an_interrupt_ends_the_loop_without_an_outcome() -> None:
    source = ListSource([candidate(0), candidate(1, raises="KeyboardInterrupt"), candidate(2)])
    stop = threading.Event()
    run(source, HERE, stop=stop)
    assert stop.is_set()
    assert source.events[-1] == ("start", 1)


def test_stop_starts_no_new_candidate() -> None:
    source = ListSource([candidate(i) for i in range(5)])
    stop = threading.Event()
    dispatch(source, factory, HERE, on_start=lambda chosen: stop.set() if chosen.seed == 1 else None, stop=stop)
    assert source.seeds("ask") == source.seeds("tell") == [0, 1]  # the running one is finished


def broken_factory() -> Callable[[Candidate], Outcome]:
    raise UserError("checkpoint a.th does not match")


def missing_factory() -> Callable[[Candidate], Outcome]:
    raise FileNotFoundError("no such file: a.th")


def check_factory(resources: Resources, make: Callable[[], Any], message: str) -> None:
    source = ListSource([candidate(i) for i in range(3)])
    with pytest.raises(UserError, match=message):
        run(source, resources, make)
    assert source.outcomes == {}


def test_an_error_of_the_factory_is_the_users() -> None:
    check_factory(HERE, broken_factory, r"^checkpoint a\.th does not match$")
    check_factory(HERE, missing_factory, r"could not be set up: FileNotFoundError: no such file: a\.th")


class Stuck(ListSource):
    """Claims to wait although nothing runs."""

    def ask(self) -> None:
        return None


class Refusing(ListSource):
    """Cannot take an outcome: a full disk."""

    def tell(self, chosen: Candidate, outcome: Outcome) -> None:
        raise UserError("disk full")


def check_source_errors(resources: Resources) -> None:
    with pytest.raises(RuntimeError, match="waits for an outcome"):
        run(Stuck([candidate()]), resources)
    with pytest.raises(UserError, match="disk full"):
        run(Refusing([candidate(i) for i in range(4)]), resources)


def test_errors_of_the_source_come_out() -> None:
    check_source_errors(HERE)


def test_memory_of_a_candidate_is_free_after_it() -> None:
    judge_candidate(fakes.evaluate, candidate(mib=64))
    before = fakes.rss()
    gc.disable()  # judge_candidate must free the cycle by itself
    try:
        for number in range(10):
            judge_candidate(fakes.evaluate, candidate(number, mib=64))
    finally:
        gc.enable()
    assert fakes.rss() - before < 64 * fakes.MIB


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": -1}, "workers"),
        ({"workers": 1, "gpus_per_worker": -0.5}, "GPUs"),
        ({"workers": 1, "gpus_per_worker": 1.5}, "whole number"),
        ({"workers": 1, "time_limit": 0}, "time limit"),
        ({"workers": 1, "time_limit": float("nan")}, "time limit"),
        ({"workers": 0, "ray_address": "auto"}, "at least one worker"),
    ],
)
def test_impossible_resources_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Resources(**arguments)


def test_processors_are_shared_so_that_all_workers_fit() -> None:
    for nodes in product(range(5), repeat=3):
        for workers in range(1, 7):
            fitting = [cpus for cpus in range(1, 6) if sum(node // cpus for node in nodes) >= workers]
            assert cpus_per_worker(nodes, workers) == max(fitting, default=1)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", r"no Ray cluster answers at '127\.0\.0\.1:1'"),
        ("127.0.0.1:99999999", "no Ray cluster answers"),
        ("headnode", "cannot read the Ray address 'headnode'"),
        ("ray://headnode:10001", "cannot read the Ray address"),
    ],
)
def test_a_cluster_that_is_not_there_is_refused_at_once(address: str, message: str) -> None:
    begin = time.monotonic()
    with pytest.raises(UserError, match=message):
        run(ListSource([candidate()]), Resources(workers=1, ray_address=address))
    assert time.monotonic() - begin < 30


# Over Ray


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    """One Ray for the tests of this file; workers know this folder's modules by value."""
    from ray import cloudpickle

    modules = [sys.modules[__name__], fakes]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    with ray_session(TWO):
        yield
    for module in modules:
        cloudpickle.unregister_pickle_by_value(module)


@pytest.mark.ray
def test_two_workers_share_the_work_and_live_on(session: None) -> None:
    # Long enough for the second worker to come up on a busy machine before the first has done nearly all.
    source = ListSource([candidate(i, sleep=0.4) for i in range(20)])
    run(source, TWO)
    assert source.seeds("ask") == list(range(20))
    assert sorted(source.seeds("start")) == sorted(source.seeds("tell")) == list(range(20))
    assert source.most_running == 2  # none is asked before a worker is free for it
    assert {seed: outcome.score for seed, outcome in source.outcomes.items()} == {
        i: expected_accuracy(i) for i in range(20)
    }
    pids = source.notes("pid")
    assert len(set(pids)) == 2
    assert min(pids.count(pid) for pid in set(pids)) >= 2
    assert set(source.notes("threads")) == {max(1, cpus_per_worker([max(count_cores(), 2)], 2))}
    assert set(source.notes("cuda")) <= {"", None}


@pytest.mark.ray
def test_workers_survive_a_wait_for_all_outcomes(session: None) -> None:
    source = GenerationSource([candidate(i, sleep=0.2 + 0.5 * (i % 2)) for i in range(8)], size=2)
    run(source, TWO)
    assert len(source.outcomes) == 8
    assert len(set(source.notes("pid"))) == 2


@pytest.mark.ray
def test_trouble_in_a_worker_reads_as_in_process(session: None) -> None:
    source = ListSource([candidate(i, **options) for i, (options, _) in enumerate(TROUBLE)] + [candidate(99)])
    run(source, TWO)
    for number, (_, reason) in enumerate(TROUBLE):
        assert source.outcomes[number].status == "failed"
        assert (source.outcomes[number].reason or "").startswith(reason)
    assert source.outcomes[99].status == "ok"


@pytest.mark.ray
def test_errors_of_factory_and_source_come_out_of_ray(session: None) -> None:
    one = Resources(workers=1)
    check_factory(one, broken_factory, r"^checkpoint a\.th does not match$")
    check_source_errors(one)


@pytest.mark.ray
def test_a_worker_holds_after_100_candidates_what_it_held_after_a_few(session: None) -> None:
    source = ListSource([candidate(i, mib=48) for i in range(100)])
    run(source, Resources(workers=1))
    held = source.notes("rss")
    assert max(held[-10:]) - max(held[5:15]) < 24 * fakes.MIB  # half of what one candidate takes


@pytest.mark.ray
def test_stop_is_prompt_and_leaves_ray_usable(session: None) -> None:
    source = ListSource([candidate(i, sleep=60) for i in range(5)])
    stop = threading.Event()
    times: dict[str, float] = {}

    def set_stop() -> None:
        times["stop"] = time.monotonic()
        stop.set()

    starts: list[int] = []

    def on_start(chosen: Candidate) -> None:
        starts.append(chosen.seed)
        if len(starts) == 2:
            threading.Timer(0.5, set_stop).start()

    dispatch(source, factory, TWO, on_start=on_start, stop=stop)
    assert time.monotonic() - times["stop"] < 10
    assert source.seeds("ask") == [0, 1]
    assert source.outcomes == {}
    again = ListSource([candidate(i) for i in range(4)])
    run(again, TWO)
    assert len(again.outcomes) == 4


@pytest.mark.ray
def test_gpus_that_are_not_there_are_refused(session: None) -> None:
    with pytest.raises(UserError, match="512 GPUs"):
        run(ListSource([candidate()]), Resources(workers=1, gpus_per_worker=512))

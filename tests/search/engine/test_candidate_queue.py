"""Strategies side by side: paid once, answered in order, whoever finishes first."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from typing import Any

import pytest

from search.allocation.targets import parse_target
from search.candidate import Candidate, Outcome, failed_outcome
from search.engine.candidate_queue import CandidateQueue
from search.judge.faults import MachineFaultError, fault_outcome
from search.ledger.ledger import LedgerError
from search.strategies.contract import Program, Proposal

TASK = "a task"


class FakeLedger:
    """The part of a ledger that a conductor uses, in memory."""

    def __init__(self, known: dict[str, Outcome] | None = None, broken: bool = False) -> None:
        self.known, self.broken = dict(known or {}), broken
        self.added: list[tuple[str, dict[str, Any]]] = []
        self.news: dict[str, Outcome] = {}
        """What another search has found since."""

    def refresh(self) -> set[str]:
        news, self.news = self.news, {}
        self.known = {**news, **self.known}
        return set(news)

    def get(self, key: str) -> Outcome | None:
        return self.known.get(key)

    def add(self, candidate: Candidate, outcome: Outcome, meta: dict[str, Any]) -> None:
        self.known[candidate.key(TASK)] = outcome
        self.added.append((candidate.key(TASK), meta))
        if self.broken:
            raise LedgerError("the disk is full")


def proposal(number: int, strategy: str = "one", stage: str = "search") -> Proposal:
    candidate = Candidate(method="fake", allocation={"conv": {"ratio": number / 1000}})
    return Proposal(candidate, stage, strategy, parse_target("0.5"))  # type: ignore[arg-type]


def accuracy(candidate: Candidate) -> float:
    return float(candidate.allocation["conv"]["ratio"]) % 0.1


def judged(candidate: Candidate) -> Outcome:
    return Outcome(status="ok", accuracy=accuracy(candidate), loss=1.0)


def rounds(log: list[Any], name: str, start: int, count: int, size: int = 3) -> Program:
    """Batches whose numbers depend on the accuracies of the batch before, in the order of its proposals."""
    number = start
    for _ in range(count):
        outcomes = yield [proposal(number + i, name) for i in range(size)]
        log.append((name, [outcome.score for outcome in outcomes]))
        number += 10 + round(1000 * sum((i + 1) * (o.score or 0) for i, o in enumerate(outcomes)))


def queue_of(programs: list[Program], ledger: FakeLedger | None = None, **options: Any) -> CandidateQueue:
    return CandidateQueue(programs, ledger or FakeLedger(), TASK, **options)  # type: ignore[arg-type]


def drain(source: CandidateQueue, pick: Callable[[list[Candidate]], int], limit: int = 4) -> list[Candidate]:
    """Up to `limit` candidates run at once; `pick` says which of them finishes next."""
    paid, running = [], []
    while not source.done:
        while len(running) < limit and (candidate := source.ask()) is not None:
            running.append(candidate)
            paid.append(candidate)
        assert running, "waits for nothing"
        chosen = running.pop(pick(running))
        source.tell(chosen, judged(chosen))
    assert not running
    assert source.ask() is None
    return paid


@pytest.mark.parametrize("seed", range(8))
def test_proposals_do_not_depend_on_who_finishes_first(seed: int) -> None:
    generator, logs = random.Random(seed), []
    for pick in (lambda running: 0, lambda running: generator.randrange(len(running))):
        log: list[Any] = []
        source = queue_of([rounds(log, "one", 0, 4), rounds(log, "two", 500, 3)])
        paid = drain(source, pick)
        assert len({candidate.key(TASK) for candidate in paid}) == len(paid)
        logs.append((sorted(log), sorted(candidate.key(TASK) for candidate in paid)))
    assert logs[0] == logs[1]


def test_the_same_candidate_of_two_strategies_is_paid_once_and_told_to_both() -> None:
    log: list[Any] = []
    ledger, seen = FakeLedger(), []
    source = queue_of(
        [rounds(log, "one", 7, 1), rounds(log, "two", 8, 1)], ledger, observe=lambda *event: seen.append(event)
    )
    paid = drain(source, lambda running: 0)
    assert len(paid) == len(ledger.added) == 4
    assert dict(log) == {"one": pytest.approx([0.007, 0.008, 0.009]), "two": pytest.approx([0.008, 0.009, 0.010])}
    assert len(seen) == len(source.seen) == 6
    assert not any(known for *_, known in seen)


def test_within_one_batch_too() -> None:
    received = []

    def twice() -> Program:
        received.extend((yield [proposal(1), proposal(1), proposal(2)]))

    source = queue_of([twice()])
    assert len(drain(source, lambda running: 0)) == 2
    assert [outcome.score for outcome in received] == pytest.approx([0.001, 0.001, 0.002])


def test_what_the_ledger_knows_is_not_paid_for() -> None:
    first: list[Any] = []
    ledger = FakeLedger()
    drain(queue_of([rounds(first, "one", 0, 3)], ledger), lambda running: 0)
    again, events = [], []  # type: ignore[var-annotated]
    source = queue_of([rounds(again, "one", 0, 3)], ledger, observe=lambda *event: events.append(event))
    assert source.done
    assert source.ask() is None
    assert again == first
    assert all(known for *_, known in events)
    assert len(events) == 9
    assert len(ledger.added) == 9


def test_goes_on_from_half_a_ledger() -> None:
    """After a kill: what was written is not repeated, the rest is paid for, the result is the same."""
    whole: list[Any] = []
    ledger = FakeLedger()
    drain(queue_of([rounds(whole, "one", 0, 4)], ledger), lambda running: 0)
    keys = [key for key, _ in ledger.added]
    for cut in range(len(keys) + 1):
        partial = FakeLedger({key: ledger.known[key] for key in keys[:cut]})
        log: list[Any] = []
        paid = drain(queue_of([rounds(log, "one", 0, 4)], partial), lambda running: -1)
        assert log == whole
        assert {candidate.key(TASK) for candidate in paid} == set(keys[cut:])


def test_failures_are_answers_too() -> None:
    received = []

    def program() -> Program:
        received.extend((yield [proposal(1), proposal(2)]))

    source = queue_of([program()])
    first, second = source.ask(), source.ask()
    assert first is not None
    assert second is not None
    source.tell(second, failed_outcome("diverged"))
    assert not source.done
    source.tell(first, judged(first))
    assert source.done
    assert [outcome.status for outcome in received] == ["ok", "failed"]


@pytest.mark.parametrize("retry", [False, True])
def test_known_failures_are_judged_again_only_on_request_and_once(retry: bool) -> None:
    bad = proposal(1)
    ledger = FakeLedger({bad.candidate.key(TASK): failed_outcome("out of memory")})

    def program(name: str) -> Generator[list[Proposal], list[Outcome], None]:
        yield [proposal(2, name)]
        yield [proposal(1, name)]
        yield [proposal(1, name)]

    source = queue_of([program("one"), program("two")], ledger, retry_failed=retry)
    asked = []
    while not source.done:
        candidate = source.ask()
        assert candidate is not None
        asked.append(candidate)
        source.tell(candidate, failed_outcome("again") if candidate == bad.candidate else judged(candidate))
    assert asked.count(bad.candidate) == int(retry)


def test_finalists_come_last_and_see_everything() -> None:
    given = []

    def finals(seen: list[tuple[Proposal, Outcome]]) -> Program:
        given.extend(list(seen))
        yield [proposal(900, "one", "final")]

    log: list[Any] = []
    source = queue_of([rounds(log, "one", 0, 2), rounds(log, "two", 500, 1)], finalists=finals)
    paid = drain(source, lambda running: 0)
    assert len(given) == 9
    assert paid[-1] == proposal(900).candidate
    assert len(paid) == 10


def test_no_programs_at_all() -> None:
    assert queue_of([]).done

    def nothing() -> Program:
        return
        yield []

    def empty() -> Program:
        yield []
        yield []

    assert queue_of([nothing(), empty()]).done


def test_a_ledger_that_cannot_be_written_is_a_warning() -> None:
    log: list[Any] = []
    warnings: list[str] = []
    source = queue_of([rounds(log, "one", 0, 1)], FakeLedger(broken=True), warn=warnings.append)
    drain(source, lambda running: 0)
    assert len(log) == 1
    assert warnings == ["the disk is full"] * 3


def test_meta_says_who_asked() -> None:
    ledger = FakeLedger()
    drain(queue_of([rounds([], "one", 0, 1)], ledger), lambda running: 0)
    assert {tuple(sorted(meta.items())) for _, meta in ledger.added} == {
        (("stage", "search"), ("strategy", "one"), ("target", "0.5"))
    }


def test_what_another_search_finds_meanwhile_is_not_paid_for() -> None:
    log: list[Any] = []
    ledger = FakeLedger()
    source = queue_of([rounds(log, "one", 0, 1, size=4)], ledger)
    first = source.ask()
    assert first is not None
    third = proposal(2).candidate
    ledger.news = {third.key(TASK): judged(third)}
    source.tell(first, judged(first))
    assert [source.ask(), source.ask(), source.ask()] == [proposal(1).candidate, proposal(3).candidate, None]
    for number in (3, 1):
        source.tell(proposal(number).candidate, judged(proposal(number).candidate))
    assert source.done
    assert log == [("one", [0.0, 0.001, 0.002, 0.003])]
    assert third.key(TASK) not in dict(ledger.added)


class Shared(FakeLedger):
    """One side of a ledger that two searches write to; each learns of the other when it looks."""

    def __init__(self) -> None:
        super().__init__()
        self.other: Shared | None = None

    def add(self, candidate: Candidate, outcome: Outcome, meta: dict[str, Any]) -> None:
        super().add(candidate, outcome, meta)
        assert self.other is not None
        self.other.news[candidate.key(TASK)] = outcome


@pytest.mark.parametrize("seed", range(20))
def test_two_searches_in_step_share_the_work(seed: int) -> None:
    """The same search twice, side by side at about the same pace: hardly anything is judged twice."""
    rng, logs = random.Random(seed), [list[Any](), list[Any]()]
    ledgers = [Shared(), Shared()]
    ledgers[0].other, ledgers[1].other = ledgers[1], ledgers[0]
    sources = [queue_of([rounds(log, "one", 0, 3, size=30)], ledger)
               for log, ledger in zip(logs, ledgers, strict=True)]  # fmt: skip
    running: list[Candidate | None] = [None, None]
    paid, turns = 0, 0
    while not all(source.done for source in sources):
        turns += 1
        assert turns < 1000, "waits for nothing"
        for side in rng.sample([0, 1], 2):
            if running[side] is None:
                running[side] = sources[side].ask()
                paid += running[side] is not None
        for side in rng.sample([0, 1], 2):
            candidate = running[side]
            if candidate is not None and rng.random() < 0.9:
                running[side] = None
                sources[side].tell(candidate, judged(candidate))
    assert logs[0] == logs[1]
    assert len(logs[0]) == 3
    assert 90 <= paid <= 90 + 12


def test_the_ledger_hears_nothing_of_it() -> None:
    ledger = FakeLedger()
    source = queue_of([rounds([], "one", 0, 1)], ledger)
    candidate = source.ask()
    assert candidate is not None
    with pytest.raises(MachineFaultError, match="free space"):
        source.tell(candidate, fault_outcome("weights: No space left on device; free space"))
    assert not ledger.known


def test_what_an_earlier_version_recorded_of_a_full_disk_is_judged_again() -> None:
    first = queue_of([rounds([], "one", 0, 1)], FakeLedger()).ask()
    assert first is not None
    for reason, again in (("OSError: [Errno 28] No space left on device: '/x'", True), ("diverged", False)):
        ledger = FakeLedger({first.key(TASK): failed_outcome(reason)})
        assert (queue_of([rounds([], "one", 0, 1)], ledger).ask() == first) is again


def test_an_outcome_that_can_be_kept_nowhere_ends_the_search() -> None:
    class Nowhere(FakeLedger):
        def add(self, *_: object, **__: object) -> None:
            raise LedgerError("kept in memory alone", kept=False)

    source = queue_of([rounds([], "one", 0, 1)], Nowhere(), warn=print)
    candidate = source.ask()
    assert candidate is not None
    with pytest.raises(MachineFaultError, match="memory alone"):
        source.tell(candidate, failed_outcome("diverged"))

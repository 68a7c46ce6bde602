"""Rungs: few are fine-tuned to the end, nothing is paid twice, and going on is the same as never having stopped."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from models.task_config import TaskConfig
from search.allocation.targets import parse_target
from search.candidate import Candidate, Outcome, failed_outcome
from search.engine.candidate_queue import CandidateQueue
from search.engine.finalists import best_candidates
from search.engine.rungs import Asha, Rungs, climb_rungs
from search.judge.evaluate import SPARED, Evaluator, rung_file
from search.recipe import Recipe
from search.strategies.contract import Program, Proposal

TASK = "a task"
RECIPE = Recipe(epochs=2)
RUNGS = Rungs((0.0, 0.5), reduction=3.0)


def proposal(number: int, **changes: object) -> Proposal:
    candidate = Candidate(method="fake", allocation={"conv": {"ratio": number / 1000}}, recipe=RECIPE)
    return Proposal(candidate, "search", "one", parse_target("0.5"), **changes)  # type: ignore[arg-type]


def accuracy(candidate: Candidate) -> float:
    """In no order to speak of; better with every rung."""
    spread = np.random.default_rng(round(1000 * float(candidate.allocation["conv"]["ratio"]))).uniform(0, 0.1)
    return float(spread) + 0.3 * (RECIPE.epochs if candidate.until is None else candidate.until)


def judged(candidate: Candidate) -> Outcome:
    epochs = candidate.recipe.epochs if candidate.until is None else candidate.until
    return Outcome(status="ok", accuracy=accuracy(candidate), loss=1.0, epochs=epochs)


def goes_on(accuracies: list[float], reduction: float) -> list[bool]:
    """The rule by itself: not below the quantile of those judged before; the first one always goes on."""
    said = []
    for place, value in enumerate(accuracies):
        before = sorted(accuracies[:place])
        if not before:
            said.append(True)
            continue
        position = (1 - 1 / reduction) * (len(before) - 1)
        low = int(position)
        high = min(low + 1, len(before) - 1)
        cutoff = before[low] + (position - low) * (before[high] - before[low])
        assume(value == before[low] == before[high] or abs(value - cutoff) > 1e-9)  # else rounding decides
        said.append(value >= cutoff)
    return said


@settings(max_examples=60)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.sampled_from([1.5, 2.0, 3.0, 4.0, 7.0]))
def test_who_goes_on_is_the_upper_part_of_those_before(hundredths: list[int], reduction: float) -> None:
    """At every rung by itself, whatever the factor."""
    accuracies = [value / 100 for value in hundredths]
    asha = Asha(Rungs((0.0, 0.1, 0.2, 1.0), reduction))
    trials = [asha.add_trial() for _ in accuracies]
    for rung in range(4):
        said = [asha.goes_on(trial, rung, value) for trial, value in zip(trials, accuracies, strict=True)]
        assert said == goes_on(accuracies, reduction)


def expected_rungs(numbers: list[int]) -> dict[int, list[float | None]]:
    """Which rungs each candidate of one batch is judged at, worked out rung by rung."""
    open_, reached = list(numbers), {number: list[float | None]() for number in numbers}
    for until in (*RUNGS.epochs, None):
        for number in open_:
            reached[number].append(until)
        at = [accuracy(proposal(number).candidate.model_copy(update={"until": until})) for number in open_]
        keep = goes_on(at, RUNGS.reduction)
        open_ = [number for number, stays in zip(open_, keep, strict=True) if stays]
    return reached


def number_of(candidate: Candidate) -> int:
    return round(1000 * float(candidate.allocation["conv"]["ratio"]))


class Store:
    """A ledger in memory."""

    def __init__(self, known: dict[str, Outcome] | None = None) -> None:
        self.known = dict(known or {})
        self.order: list[str] = []

    def get(self, key: str) -> Outcome | None:
        return self.known.get(key)

    def refresh(self) -> set[str]:
        return set()

    def add(self, candidate: Candidate, outcome: Outcome, meta: object) -> None:
        assert candidate.key(TASK) not in self.known, "paid twice"
        self.known[candidate.key(TASK)] = outcome
        self.order.append(candidate.key(TASK))


def search(
    numbers: list[int],
    store: Store,
    pick: Callable[[int], int] = lambda running: 0,
    judge: Callable[[Candidate], Outcome] = judged,
) -> tuple[list[Outcome], list[Candidate], list[Candidate], CandidateQueue]:
    """Told to the strategy; paid; discarded."""
    told: list[Outcome] = []
    gone: list[Candidate] = []

    def strategy() -> Program:
        told.extend((yield [proposal(number) for number in numbers]))

    source = CandidateQueue([climb_rungs(strategy(), RUNGS, gone.append)], store, TASK)  # type: ignore[arg-type]
    paid, running = [], []
    while not source.done:
        while len(running) < 3 and (candidate := source.ask()) is not None:
            running.append(candidate)
            paid.append(candidate)
        chosen = running.pop(pick(len(running)))
        source.tell(chosen, judge(chosen))
    return told, paid, gone, source


NUMBERS = list(range(10, 22))


@pytest.mark.parametrize("seed", range(5))
def test_the_same_survivors_whoever_finishes_first(seed: int) -> None:
    generator = random.Random(seed)
    told, paid, gone, _ = search(NUMBERS, Store(), generator.randrange)
    expected = expected_rungs(NUMBERS)
    reached: dict[int, list[float | None]] = {number: [] for number in NUMBERS}
    for candidate in paid:
        reached[number_of(candidate)].append(candidate.until)
    assert reached == expected
    assert 1 <= sum(rungs[-1] is None for rungs in expected.values()) < len(NUMBERS) / 2
    last = {number: proposal(number).candidate.model_copy(update={"until": expected[number][-1]}) for number in NUMBERS}
    assert told == [judged(last[number]) for number in NUMBERS]
    assert sorted(map(number_of, gone)) == NUMBERS
    assert all(candidate.until is None for candidate in gone)


def test_goes_on_from_a_ledger_cut_anywhere() -> None:
    """In the middle of a rung too: what was written is not repeated, and the same candidates survive."""
    whole = Store()
    told, *_ = search(NUMBERS, whole)
    for cut in range(0, len(whole.order) + 1, 3):
        store = Store({key: whole.known[key] for key in whole.order[:cut]})
        again, paid, *_ = search(NUMBERS, store)
        assert again == told
        assert {candidate.key(TASK) for candidate in paid} == set(whole.order[cut:])


def test_a_plain_search_and_rungs_share_the_last_outcome() -> None:
    survivor = next(number for number, rungs in expected_rungs(NUMBERS).items() if rungs[-1] is None)
    plain = proposal(survivor).candidate
    _, paid, *_ = search(NUMBERS, Store({plain.key(TASK): judged(plain)}))
    assert plain not in paid
    assert plain.model_copy(update={"until": 0.5}) in paid


def test_failed_candidates_go_no_further_and_if_all_survivors_fail_the_rest_are_finalists() -> None:
    def judge(candidate: Candidate) -> Outcome:
        return failed_outcome("loss was NaN") if candidate.until is None else judged(candidate)

    told, _, _, source = search(NUMBERS, Store(), judge=judge)
    ended = [number for number, rungs in expected_rungs(NUMBERS).items() if rungs[-1] is None]
    assert [outcome.status for outcome in told].count("failed") == len(ended)
    (best,) = best_candidates(source.seen, 1)
    assert best.candidate.until == 0.5  # trained for longest of those that have an accuracy
    first_fails, *_ = search(NUMBERS, Store(), judge=lambda _: failed_outcome("out of memory"))
    assert {outcome.reason for outcome in first_fails} == {"out of memory"}


def test_measurements_and_those_without_rivals_are_judged_as_they_are() -> None:
    scan = Proposal(proposal(1).candidate.model_copy(update={"images": 5}), "scan", "one")
    single = proposal(2, alone=True)
    program = climb_rungs(iter_program([scan, proposal(3), single]), RUNGS, lambda _: None)
    batch = next(program)
    assert batch[:2] == [scan, single]
    assert (batch[2].stage, batch[2].candidate.until) == ("rung", 0.0)
    again = program.send([judged(each.candidate) for each in batch])
    assert [(each.stage, each.candidate.until, each.after) for each in again] == [("rung", 0.5, 0.0)]


def iter_program(batch: list[Proposal]) -> Program:
    yield batch


def test_targets_are_not_compared_with_each_other() -> None:
    """A worse one at a tighter target goes on all the same."""
    tight = Proposal(proposal(2).candidate, "search", "one", parse_target("0.1"))
    program = climb_rungs(iter_program([proposal(1), tight]), RUNGS, lambda _: None)
    next(program)
    outcomes = [Outcome(status="ok", accuracy=0.9, loss=1.0), Outcome(status="ok", accuracy=0.1, loss=1.0)]
    assert len(program.send(outcomes)) == 2


def test_rungs_have_keys_of_their_own_and_know_the_whole() -> None:
    candidate = proposal(7).candidate
    rungs = [candidate.model_copy(update={"until": until}) for until in (None, 0.0, 0.5)]
    assert len({rung.key(TASK) for rung in rungs}) == 3
    assert all(rung.without_rung == candidate for rung in rungs)


# ---- fine-tunes that are broken off, on digits

DIGITS = TaskConfig(network="small", data="digits", train_images=300)
SHORT = Recipe(epochs=2.0, batch_size=32, lr=0.05, recalibration_images=128)


@pytest.fixture(scope="module")
def plain() -> Evaluator:
    return Evaluator(DIGITS, device="cpu")


def half(evaluator: Evaluator, method: str) -> Candidate:
    dense = Candidate(method=method, allocation={}, recipe=SHORT)
    compressor = evaluator.compressor(dense)
    levels = [len(site.settings) // 2 for site in compressor.sites]
    return dense.model_copy(update={"allocation": compressor.allocation(levels)})


def figures(outcome: Outcome) -> tuple[float | None, float | None]:
    assert outcome.status == "ok", outcome.reason
    return outcome.score, outcome.loss


@pytest.mark.parametrize("method", ["l1", "resrep", "kse", "kernel-clustering"])
def test_going_on_from_a_rung_is_never_having_stopped(plain: Evaluator, tmp_path: Path, method: str) -> None:
    """In the middle of an epoch, and when the weights are lost on the way."""
    candidate = half(plain, method)
    rungs = Evaluator(DIGITS, device="cpu", keep_rungs=tmp_path)
    path = rung_file(tmp_path, candidate, rungs.task.fingerprint)
    at = {until: candidate.model_copy(update={"until": until}) for until in (0.0, 0.6, 1.3)}
    assert rungs(at[0.0]).epochs == 0.0
    assert not path.exists()
    first = rungs(at[0.6])
    assert first.epochs == 0.6
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    with safe_open(path, "pt") as file:
        assert int(file.metadata()["step"]) == int(np.ceil(0.6 * (len(rungs.task.tune) // 32)))
    second = rungs(at[1.3])
    assert figures(second) == figures(plain(at[1.3]))
    assert second.notes[SPARED] > 0
    assert figures(rungs(at[0.6])) == figures(first)  # the file has gone further, and is of no use
    ended = rungs(candidate)
    assert figures(ended) == figures(plain(candidate))
    assert ended.epochs == 2.0
    path.write_bytes(path.read_bytes()[:1000])
    damaged = rungs(candidate)
    assert figures(damaged) == figures(ended)
    assert SPARED not in damaged.notes

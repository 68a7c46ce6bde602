"""Warm starts: known outcomes come first and cost nothing, and what a run began with does not change under it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_problems import Chain, levels_of, outcome_of_loss, play_strategy, problem

from methods.base import Levels
from search import candidate
from search.candidate import Outcome, failed_outcome
from search.engine.warm_start import MOST, warm_problem
from search.ledger.ledger import Ledger
from search.recipe import Recipe
from search.strategies.contract import Proposal
from search.strategies.lending import REACH
from search.strategies.problem import Problem
from search.strategies.registry import find_strategy
from search.strategies.sampling import hardness_of, power_shape

COST = Chain([64] * 5, [90, 50, 20, 60, 10, 5])
TASK = "a task"


def given_problem(kept: tuple[float, ...] = (0.5,), **changes: object) -> Problem:
    return problem([64] * 5, COST, kept, **changes)


def judge(given: Problem, levels: Levels) -> Outcome:
    return outcome_of_loss(given, levels, float((levels / 64) ** 2 @ np.array([9, 1, 1, 0.2, 0.2])))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(str(tmp_path / "ledger.db"), TASK, "toys") as opened:
        yield opened


def fill(ledger: Ledger, given: Problem, name: str = "random") -> list[tuple[str, Levels, Outcome]]:
    """What an earlier search left: key, levels, outcome."""
    left = []
    for batch in play_strategy(given, find_strategy(name)[1](given), lambda levels, _: judge(given, levels)):
        for each in batch:
            levels = levels_of(given, each.candidate)
            ledger.add(each.candidate, judge(given, levels))
            left.append((each.candidate.key(TASK), levels, judge(given, levels)))
    return left


def run(name: str, given: Problem) -> list[list[Proposal]]:
    return play_strategy(given, find_strategy(name)[1](given), lambda levels, _: judge(given, levels))


@settings(max_examples=80)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6), st.floats(0.05, 0.95))
def test_the_inverse_of_a_shape_leads_back_to_it(hardness: list[float], scale: float) -> None:
    """Up to the scale: the same strengths come out at another scale."""
    middle = (max(hardness) + min(hardness)) / 2
    centred = np.array(hardness) - middle
    strengths = power_shape(np.array(hardness))(np.array([scale]))[0]
    assert hardness_of(strengths) == pytest.approx(centred, abs=1e-6)


def test_dense_and_smallest_sites_are_spared_and_hardened_all_the_way() -> None:
    assert hardness_of(np.array([0.0, 0.5, 1.0])) == pytest.approx([-1, 0, 1])
    assert hardness_of(np.array([0.0, 0.0])) == pytest.approx([-1, -1])


@pytest.mark.parametrize("name", ["tpe", "nsga2"])
@pytest.mark.parametrize("kept", [(0.5,), (0.5, 0.3)])
def test_the_best_known_below_each_target_come_first_and_on_top(
    ledger: Ledger, name: str, kept: tuple[float, ...]
) -> None:
    given = given_problem(kept, trials=12)
    left = fill(ledger, given)
    start = warm_problem(given, ledger, [name], None)
    wanted = set()
    for _, budget in given.targets:
        limit = budget.limits["flops"]
        near = [each for each in left if limit - REACH * COST.dense.flops <= (each[2].flops or 0) <= limit]
        wanted |= {key for key, *_ in sorted(near, key=lambda each: -(each[2].score or 0))[:MOST]}
    assert {known.key for known in start.known_candidates} == wanted
    flat = [each for batch in run(name, start) for each in batch]
    known = [each for each in flat if each.candidate.key(TASK) in wanted]
    assert {each.candidate.key(TASK) for each in known} == wanted
    assert all(each.alone for each in known)
    places = [flat.index(each) for each in known]
    assert max(places) < len(wanted) + len(kept) + 4 * len(kept)  # at the beginning
    paid = {each.candidate.key(TASK) for each in flat} - wanted
    assert len(flat) == 12 * len(kept) + len(wanted)
    assert len(paid) > 6
    limits = {target.asked: budget.limits["flops"] for target, budget in given.targets}
    assert all(COST(levels_of(given, each.candidate)[None]).flops[0] <= limits[str(each.target)] for each in flat)


def test_what_another_question_left_is_no_start(ledger: Ledger) -> None:
    given = given_problem(trials=12)
    for changes in ({"recipe": Recipe(epochs=7)}, {"seed": 5}):
        fill(ledger, replace(given, **changes))  # type: ignore[arg-type]
    fill(ledger, replace(given, targets=given_problem((0.3,)).targets))
    spoilt = find_strategy("random")[1](given)
    for each in next(spoilt):
        ledger.add(each.candidate, failed_outcome("loss was NaN"))
    assert warm_problem(given, ledger, ["tpe"], None).known_candidates == ()


def test_what_would_be_judged_again_is_not_known(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outcomes of an earlier version have other keys."""
    given = given_problem(trials=12)
    fill(ledger, given)
    assert warm_problem(given, ledger, ["tpe"], None).known_candidates
    monkeypatch.setattr(candidate, "_VERSIONS", {"search": 99, "test": 99})
    assert warm_problem(given, ledger, ["tpe"], None).known_candidates == ()


def test_what_a_run_began_with_stays_when_the_ledger_grows(ledger: Ledger) -> None:
    given = given_problem(trials=12)
    fill(ledger, given)
    first = warm_problem(given, ledger, ["tpe"], None)
    proposed = run("tpe", first)
    for batch in proposed:
        for each in batch:
            ledger.add(each.candidate, judge(given, levels_of(given, each.candidate)))
    again = warm_problem(given, ledger, ["tpe"], [known.key for known in first.known_candidates])
    assert again == first
    assert run("tpe", again) == proposed
    assert warm_problem(given, ledger, ["tpe"], None).known_candidates != first.known_candidates
    assert warm_problem(given, ledger, ["acra-uniform"], None).known_candidates == ()


@pytest.mark.parametrize("name", ["tpe", "nsga2"])
def test_points_of_other_strategies_are_tried_first_and_their_scan_is_shared(ledger: Ledger, name: str) -> None:
    given = warm_problem(given_problem((0.5, 0.3), trials=8), ledger, ["lagrangian", "acra-uniform", name], None)
    assert given.lenders == ("lagrangian",)
    alone = run("lagrangian", given)
    points = {each.target: each.candidate for each in reversed(alone[1])}  # the first of each: its own solution
    others = [each.candidate for each in alone[1] if each.candidate not in points.values()]
    assert others
    batches = run(name, given)
    scans = [each for batch in batches for each in batch if each.stage == "scan"]
    assert [each.candidate for each in scans] == [each.candidate for each in alone[0]]
    assert {each.strategy for each in scans} == {name}
    sampled = [each for batch in batches for each in batch if each.stage == "search"]
    assert len(sampled) == 16
    first = {each.target: each.candidate for each in sampled if each.candidate in points.values()}
    assert first == points
    lent = [each.candidate for each in sampled if each.alone and each.candidate in [*points.values(), *others]]
    assert sorted(map(str, lent)) == sorted(map(str, points.values())), "none of its rivals"
    assert max(sampled.index(each) for each in sampled if each.candidate in points.values()) < 8

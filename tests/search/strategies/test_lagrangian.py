"""Allocation of least damage, against brute force and against curves that are known."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator
from small_problems import (
    Chain,
    Floats,
    Separable,
    every,
    levels_of,
    outcome_of_loss,
    play_strategy,
    problem,
    rising,
    sites,
)

from methods.base import Levels
from search.allocation.allocate import Ladders, project_shape, uniform_shape
from search.allocation.budget import Budget
from search.allocation.minimise import SLACK, minimise_damage, total_damage
from search.allocation.targets import TOLERANCE
from search.candidate import Outcome, failed_outcome
from search.strategies import lagrangian
from search.strategies.acra import equal_drop_shape
from search.strategies.contract import Proposal
from search.strategies.lagrangian import halfway_shape, monotone_cubic, predicted_damages, rival_allocations
from search.strategies.problem import Problem
from search.strategies.registry import find_strategy, strategy_infos
from search.strategies.sensitivity import Curve

CANDIDATES = strategy_infos()["lagrangian"].candidates


def separable_problem(rng: np.random.Generator, counts: list[int]) -> Separable:
    return Separable([np.sort(rng.integers(0, 1000, n))[::-1].tolist() for n in counts])


def chain_problem(rng: np.random.Generator, counts: list[int]) -> Chain:
    return Chain(counts, rng.integers(1, 50, len(counts) + 1).tolist())


@pytest.mark.parametrize("seed", range(20))
def test_separable_costs_are_solved_exactly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(2, 8, 5).tolist()
    cost, damage = separable_problem(rng, counts), [rising(rng, n) for n in counts]
    span = cost(np.stack([np.array(counts) - 1, np.zeros(5, dtype=int)])).flops
    limit = int(span[0] + rng.uniform(0.05, 0.95) * (span[1] - span[0]))
    everything = every(counts)
    fits = everything[cost(everything).flops <= limit]
    best = min(total_damage(damage, row) for row in fits)
    found = minimise_damage(damage, Budget({"flops": limit}, cost))
    assert cost(found[None]).flops[0] <= limit
    # Exact, unless FLOPs near the limit were bought with a little damage.
    near = cost(found[None]).flops[0] >= limit - TOLERANCE * cost.dense.flops
    assert total_damage(damage, found) <= (1 + SLACK * near) * best + 1e-9


def test_coupled_costs_come_close_to_the_optimum() -> None:
    gaps = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        counts = rng.integers(4, 9, 5).tolist()
        cost, damage = chain_problem(rng, counts), [rising(rng, n) for n in counts]
        limit = int(rng.uniform(0.3, 0.8) * cost.dense.flops)
        everything = every(counts)
        levels = minimise_damage(damage, Budget({"flops": limit}, cost))
        assert cost(levels[None]).flops[0] <= limit
        fits = everything[cost(everything).flops <= limit]
        gaps.append(total_damage(damage, levels) / min(total_damage(damage, row) for row in fits) - 1)
    assert np.mean(gaps) < 0.02
    assert max(gaps) < 0.15


@settings(max_examples=60)
@given(st.data())
def test_the_limit_is_kept_and_the_damage_no_more_than_uniform(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    counts = data.draw(st.lists(st.integers(2, 12), min_size=1, max_size=6))
    cost = chain_problem(rng, counts) if data.draw(st.booleans()) else separable_problem(rng, counts)
    damage = [rising(rng, n) for n in counts]
    last = np.array(counts) - 1
    least = int(cost(last[None]).flops[0])
    limit = data.draw(st.integers(least, cost.dense.flops))
    levels = minimise_damage(damage, Budget({"flops": limit}, cost))
    assert (levels >= 0).all()
    assert (levels <= last).all()
    assert cost(levels[None]).flops[0] <= limit
    if limit == cost.dense.flops:
        assert total_damage(damage, levels) == 0.0


def test_long_ladders_of_many_sites_meet_the_target() -> None:
    rng = np.random.default_rng(0)
    counts = [4096] * 4 + [512] * 56
    cost = chain_problem(rng, counts)
    damage = [rising(rng, n) for n in counts]
    limit = cost.dense.flops // 2
    levels = minimise_damage(damage, Budget({"flops": limit}, cost))
    assert limit - TOLERANCE * cost.dense.flops <= cost(levels[None]).flops[0] <= limit


def test_the_cubic_is_scipys_and_never_falls() -> None:
    rng = np.random.default_rng(1)
    x = np.array([0.0, 0.1, 0.3, 0.35, 0.8])
    at = np.linspace(0.1, 0.35, 50)  # inner pieces: the two treat the end tangents differently
    for _ in range(20):
        y = np.concatenate([[0.0], np.cumsum(rng.exponential(size=4) * (rng.uniform(size=4) > 0.3))])
        assert monotone_cubic(x, y, at) == pytest.approx(PchipInterpolator(x, y)(at), abs=1e-12)
        dense = monotone_cubic(x, y, np.linspace(0, 0.8, 200))
        assert (np.diff(dense) >= -1e-12).all()
        assert monotone_cubic(x, y, x) == pytest.approx(y)


def test_damage_passes_through_the_measurements_and_is_steep_beyond_them() -> None:
    ladder = sites([11, 11])
    measured = [
        Curve(np.array([0, 3 / 11, 6 / 11]), np.zeros(3), np.array([0.0, 0.5, 2.0])),
        Curve(np.array([0.0]), np.zeros(1), np.zeros(1)),  # every measurement failed
    ]
    one, other = predicted_damages(ladder, measured)
    assert one[[0, 3, 6]] == pytest.approx([0, 0.5, 2.0], abs=2e-3)
    assert one[10] > 3.5
    assert (np.diff(one) > 0).all()
    assert other == pytest.approx(2.0 * np.arange(11) / 11, abs=1e-2)


def test_where_measurements_see_no_difference_the_gentlest_allocation_is_taken() -> None:
    """Flat curves: what is predicted orders allocations by their summed strength, found here by trying all."""
    counts = [6] * 4
    given_problem = problem(counts, Separable([[90, 70, 50, 30, 20, 10], [60, 50, 40, 30, 20, 10]] * 2), [0.6])
    flat = [Curve(np.array([0, 5 / 6]), np.zeros(2), np.zeros(2))] * 4
    budget = given_problem.targets[0][1]
    everything = every(counts)
    fits = everything[given_problem.cost(everything).flops <= budget.limits["flops"]]
    least = min(strengths_of(given_problem, row).sum() for row in fits)
    solution = next(rival_allocations(given_problem, flat, budget))
    assert strengths_of(given_problem, solution).sum() <= (1 + SLACK) * least
    assert all(
        (np.diff(table) > 0).all() and table[-1] < 1e-3 for table in predicted_damages(given_problem.sites, flat)
    )


def true_loss(curves: list[float], coupling: float = 0.0) -> object:
    """A judge whose loss is Σ aᵢ·sᵢ² + coupling · s₀·s₁ over strengths."""

    def loss(given: Problem, levels: Levels) -> float:
        s = np.array([site.strengths[level] for site, level in zip(given.sites, levels, strict=True)])
        return float(np.array(curves) @ s**2 + coupling * s[0] * s[1]) + 0.1

    return loss


def run_lagrangian(given_problem: Problem, loss: object) -> tuple[list[list[Proposal]], dict[str, list[Levels]]]:
    """The batches, and the candidates of every target in the order of their proposals."""

    def judge(levels: Levels, proposal: Proposal) -> Outcome:
        return outcome_of_loss(given_problem, levels, loss(given_problem, levels))  # type: ignore[operator]

    batches = play_strategy(given_problem, find_strategy("lagrangian")[1](given_problem), judge)
    chosen: dict[str, list[Levels]] = {}
    for proposal in itertools.chain(*batches[1:]):
        chosen.setdefault(str(proposal.target), []).append(levels_of(given_problem, proposal.candidate))
    return batches, chosen


def strengths_of(given_problem: Problem, levels: Levels) -> Floats:
    return Ladders(given_problem.sites).strengths_at(levels)


def test_one_scan_serves_all_targets_and_each_is_met() -> None:
    given_problem = problem([16] * 4, Chain([16] * 4, [90, 50, 20, 10, 5]), [0.6, 0.4, 0.25], trials=8)
    batches, chosen = run_lagrangian(given_problem, true_loss([1, 4, 1, 2]))
    assert [{proposal.stage for proposal in batch} for batch in batches] == [{"scan"}, {"search"}, {"search"}]
    assert len(batches[0]) == 1 + 4 * 7
    assert list(chosen) == ["0.6", "0.4", "0.25"]
    for target, budget in given_problem.targets:
        limit = budget.limits["flops"]
        flops = given_problem.cost(np.stack(chosen[target.asked])).flops
        assert (flops <= limit).all()
        assert (flops >= limit - 0.02 * given_problem.cost.dense.flops).all()
        assert len(flops) <= CANDIDATES


def test_it_comes_near_the_best_allocation_of_a_known_loss() -> None:
    given_problem = problem([8] * 5, Chain([8] * 5, [90, 50, 20, 60, 10, 5]), [0.5])
    loss = true_loss([1, 4, 0.3, 2, 5])
    _, chosen = run_lagrangian(given_problem, loss)
    everything = every([8] * 5)
    fits = everything[given_problem.cost(everything).flops <= given_problem.targets[0][1].limits["flops"]]
    best = min(loss(given_problem, levels) for levels in fits)  # type: ignore[operator]
    own = loss(given_problem, chosen["0.5"][0])  # type: ignore[operator]
    assert own - 0.1 <= 1.1 * (best - 0.1), "losses that add up: its own solution needs no rival"


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_it_stands_against_what_the_other_strategies_propose(seed: int) -> None:
    """Whatever the loss: with sites that make each other's damage worse, or that nothing can be told of."""
    rng = np.random.default_rng(seed)
    given_problem = problem([12] * 5, Chain([12] * 5, rng.integers(1, 50, 6).tolist()), [0.5], trials=CANDIDATES)
    steep, coupling = rng.uniform(0, 4, 5).tolist(), float(rng.uniform(0, 20))
    loss = true_loss(steep, coupling)
    _, chosen = run_lagrangian(given_problem, loss)

    def judge(levels: Levels, proposal: Proposal) -> Outcome:
        return outcome_of_loss(given_problem, levels, loss(given_problem, levels))  # type: ignore[operator]

    for rival in ("acra-uniform", "acra-sensitivity"):
        (proposal,) = play_strategy(given_problem, find_strategy(rival)[1](given_problem), judge)[-1]
        levels = levels_of(given_problem, proposal.candidate)
        assert any(np.array_equal(levels, each) for each in chosen["0.5"])


def test_the_second_batch_lies_halfway_between_the_best_three_of_the_first() -> None:
    """Costs that are the same for all sites: the mean of two allocations on the target is on the target."""
    given_problem = problem([41] * 4, Separable([list(range(410, 0, -10))] * 4), [0.6], trials=CANDIDATES)
    loss = true_loss([0.2, 0.5, 1, 1], coupling=6.0)
    (_, first, second), _ = run_lagrangian(given_problem, loss)
    levels = [levels_of(given_problem, each.candidate) for each in first]
    best = sorted(levels, key=lambda row: loss(given_problem, row))[:3]  # type: ignore[operator]
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert len(second) == len(pairs)
    for proposal, (one, other) in zip(second, pairs, strict=True):
        middle = (strengths_of(given_problem, best[one]) + strengths_of(given_problem, best[other])) / 2
        astray = strengths_of(given_problem, levels_of(given_problem, proposal.candidate)) - middle
        assert np.abs(astray).max() <= 2 / 41, "no more than rounding and the fill after it"


@pytest.mark.parametrize("trials", [1, 3, 5, 50])
def test_no_target_gets_more_than_its_trials_and_its_own_solution_is_first(trials: int) -> None:
    given_problem = problem([16] * 4, Chain([16] * 4, [90, 50, 20, 10, 5]), [0.6, 0.4], trials=trials)
    batches, chosen = run_lagrangian(given_problem, true_loss([1, 4, 1, 2], coupling=3.0))
    full = problem([16] * 4, Chain([16] * 4, [90, 50, 20, 10, 5]), [0.6, 0.4], trials=50)
    _, everything = run_lagrangian(full, true_loss([1, 4, 1, 2], coupling=3.0))
    assert len(batches) == (2 if trials <= 3 else 3)
    for target, levels in chosen.items():
        assert len(levels) == min(trials, len(everything[target]))
        assert np.array_equal(levels, everything[target][: len(levels)])
        assert len({tuple(row) for row in levels}) == len(levels), "each allocation once"


def test_half_the_scale_is_the_mean_and_the_ends_are_dense_and_smallest() -> None:
    shape = halfway_shape(np.array([0.2, 0.0, 0.9, 0.0]), np.array([0.6, 0.5, 0.9, 0.0]))
    wanted = shape(np.linspace(0, 1, 101))
    assert wanted[0] == pytest.approx([0, 0, 0, 0])
    assert wanted[50] == pytest.approx([0.4, 0.25, 0.9, 0])
    assert wanted[100] == pytest.approx([1, 1, 1, 0])
    assert (np.diff(wanted, axis=0) >= 0).all()


def test_failed_measurements_do_not_stop_it() -> None:
    given_problem = problem([16] * 3, Chain([16] * 3, [9, 9, 9, 9]), [0.5])

    def judge(levels: Levels, proposal: Proposal) -> Outcome:
        return outcome_of_loss(given_problem, levels, 0.1) if not levels.any() else failed_outcome("out of memory")

    batches = play_strategy(given_problem, find_strategy("lagrangian")[1](given_problem), judge)
    assert [{each.stage for each in batch} for batch in batches] == [{"scan"}, {"search"}]
    for proposal in batches[-1]:
        flops = given_problem.cost(levels_of(given_problem, proposal.candidate)[None]).flops[0]
        assert flops <= given_problem.targets[0][1].limits["flops"]


def test_of_one_that_failed_nothing_is_halved() -> None:
    given_problem = problem([41] * 4, Separable([list(range(410, 0, -10))] * 4), [0.6], trials=CANDIDATES)
    loss = true_loss([1, 4, 1, 2])
    asked: list[Levels] = []

    def judge(levels: Levels, proposal: Proposal) -> Outcome:
        if proposal.stage == "search":
            asked.append(levels)
            if len(asked) > 2:
                return failed_outcome("out of memory")
        return outcome_of_loss(given_problem, levels, loss(given_problem, levels))  # type: ignore[operator]

    batches = play_strategy(given_problem, find_strategy("lagrangian")[1](given_problem), judge)
    assert len(batches[-1]) == 1
    middle = (strengths_of(given_problem, asked[0]) + strengths_of(given_problem, asked[1])) / 2
    half = strengths_of(given_problem, levels_of(given_problem, batches[-1][0].candidate))
    assert np.abs(half - middle).max() <= 2 / 41


def test_what_stands_for_a_target_is_least_sum_least_squares_even_strength_and_even_drop() -> None:
    """The first two against brute force on the predicted damage, the others against the strategies that are theirs."""
    given_problem = problem([8] * 4, Separable([list(range(80, 0, -10))] * 4), [0.6])
    ends = np.linspace(0, 7 / 8, 8)
    measured = [Curve(ends, slope / 9 * ends, slope * ends) for slope in (1.0, 1.2, 1.5, 4.0)]
    budget = given_problem.targets[0][1]
    found = list(rival_allocations(given_problem, measured, budget))
    damage = predicted_damages(given_problem.sites, measured)
    everything = every([8] * 4)
    fits = everything[given_problem.cost(everything).flops <= budget.limits["flops"]]
    for levels, power in zip(found, (1, 2), strict=False):
        tables = [table**power for table in damage]
        assert total_damage(tables, levels) <= (1 + SLACK) * min(total_damage(tables, row) for row in fits)
    assert total_damage([table**2 for table in damage], found[1]) < 0.9 * total_damage(
        [table**2 for table in damage], found[0]
    )
    assert np.array_equal(found[2], project_shape(uniform_shape(4), given_problem.sites, budget).levels)
    assert np.array_equal(found[3], project_shape(equal_drop_shape(measured), given_problem.sites, budget).levels)
    assert len(found) + 3 == CANDIDATES


def test_no_more_is_solved_than_trials_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    solved = []
    monkeypatch.setattr(
        lagrangian, "minimise_damage", lambda *args, **options: solved.append(1) or minimise_damage(*args, **options)
    )
    given_problem = problem([16] * 4, Chain([16] * 4, [90, 50, 20, 10, 5]), [0.5], trials=1)
    run_lagrangian(given_problem, true_loss([1, 4, 1, 2]))
    assert len(solved) == 1


def test_damages_that_a_method_predicts_need_no_scan() -> None:
    rng = np.random.default_rng(3)
    counts = [5, 4, 6, 5]
    damage = [rising(rng, n) for n in counts]
    given_problem = problem(counts, separable_problem(rng, counts), [0.6], trials=8)
    predicted = [replace(site, damages=tuple(table)) for site, table in zip(given_problem.sites, damage, strict=True)]
    given_problem = replace(given_problem, sites=predicted)
    batches = play_strategy(
        given_problem,
        find_strategy("lagrangian")[1](given_problem),
        lambda levels, _: outcome_of_loss(given_problem, levels, total_damage(damage, levels)),
    )
    assert {proposal.stage for batch in batches for proposal in batch} == {"search"}
    everything = every(counts)
    fits = everything[given_problem.cost(everything).flops <= given_problem.targets[0][1].limits["flops"]]
    best = min(total_damage(damage, row) for row in fits)
    assert total_damage(damage, levels_of(given_problem, batches[0][0].candidate)) <= (1 + SLACK) * best + 1e-9


def test_one_site_without_a_prediction_makes_a_scan_of_all() -> None:
    given_problem = problem([5, 4], Chain([5, 4], [9, 5, 2]), [0.6])
    first, second = given_problem.sites
    given_problem = replace(given_problem, sites=[replace(first, damages=(0.0, 0.1, 0.2, 0.3, 0.4)), second])
    (proposal, *_) = next(find_strategy("lagrangian")[1](given_problem))
    assert proposal.stage == "scan"

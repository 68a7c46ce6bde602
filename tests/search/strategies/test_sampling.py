"""Sampling strategies: every proposal meets its target, the same seed proposes the same, failures do not stop them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.samplers import NSGAIISampler
from small_problems import Chain, levels_of, outcome_of_loss, play_strategy, problem

from methods.base import Cost, Costs, Levels
from search.allocation.budget import Budget
from search.allocation.targets import TOLERANCE, parse_target
from search.candidate import Outcome, failed_outcome
from search.strategies.contract import Proposal
from search.strategies.problem import Problem
from search.strategies.registry import find_strategy, strategy_infos
from search.strategies.sampling import BATCH, ShapeStudy, power_shape

NAMES = ("random", "tpe", "nsga2")
COST = Chain([64] * 5, [90, 50, 20, 60, 10, 5])


def given_problem(targets: tuple[float, ...] = (0.5,), **changes: object) -> Problem:
    return problem([64] * 5, COST, targets, **changes)


def loss(levels: Levels) -> float:
    """Site 0 must be spared; the others can go."""
    return float((levels / 64) ** 2 @ np.array([9, 1, 1, 0.2, 0.2]))


def propose_all(name: str, given: Problem) -> list[list[Proposal]]:
    return play_strategy(
        given, find_strategy(name)[1](given), lambda levels, _: outcome_of_loss(given, levels, loss(levels))
    )


def keys_of(batches: list[list[Proposal]]) -> list[list[str]]:
    return [[proposal.candidate.key("task") for proposal in batch] for batch in batches]


@settings(max_examples=50)
@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3))
def test_shapes_rise_from_dense_to_the_smallest_and_order_sites_by_hardness(hardness: list[float]) -> None:
    wanted = power_shape(np.array(hardness))(np.linspace(0, 1, 101))
    assert wanted[0] == pytest.approx([0] * 3, abs=1e-9)
    assert wanted[-1] == pytest.approx([1] * 3)
    assert (np.diff(wanted, axis=0) >= 0).all()
    assert (np.diff(wanted[50][np.argsort(hardness)]) >= -1e-12).all()


def test_hardness_zero_is_uniform() -> None:
    scales = np.linspace(0, 1, 7)
    assert power_shape(np.zeros(2))(scales) == pytest.approx(np.stack([scales, scales], axis=1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("trials", [1, 6, 9])
def test_so_many_trials_and_each_meets_its_target(name: str, trials: int) -> None:
    given = given_problem(trials=trials)
    proposals = [each for batch in propose_all(name, given) for each in batch]
    assert len(proposals) == trials
    limit = given.targets[0][1].limits["flops"]
    for each in proposals:
        flops = COST(levels_of(given, each.candidate)[None]).flops[0]
        assert limit - TOLERANCE * COST.dense.flops <= flops <= limit
        assert (each.stage, each.strategy, str(each.target)) == ("search", name, "0.5")
        assert each.candidate.recipe == given.recipe


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_proposes_the_same_and_another_something_else(name: str) -> None:
    same = [keys_of(propose_all(name, given_problem(trials=9, seed=3))) for _ in range(2)]
    assert same[0] == same[1]
    assert same[0] != keys_of(propose_all(name, given_problem(trials=9, seed=4)))
    assert len({key for batch in same[0] for key in batch}) > 6


@pytest.mark.parametrize("name", ["tpe", "nsga2"])
def test_the_uniform_allocation_comes_first(name: str) -> None:
    given = given_problem()
    first = propose_all(name, given)[0][0]
    uniform = next(find_strategy("acra-uniform")[1](given))[0]
    assert first.candidate == uniform.candidate


@pytest.mark.parametrize("name", ["tpe", "nsga2"])
def test_what_is_told_decides_what_is_proposed_next(name: str) -> None:
    given = given_problem(trials=24)
    batches = propose_all(name, given)
    assert {len(batch) for batch in batches} == {BATCH}

    def opposite(levels: Levels, _: Proposal) -> Outcome:
        return outcome_of_loss(given, levels, 10 - loss(levels))

    other = play_strategy(given, find_strategy(name)[1](given), opposite)
    assert keys_of(other)[0] == keys_of(batches)[0]
    assert keys_of(other)[-1] != keys_of(batches)[-1]


@pytest.mark.parametrize("name", ["tpe", "nsga2"])
def test_it_learns(name: str) -> None:
    """Later trials lose less than the first, which no outcome has steered yet; over five seeds."""
    early, late = [], []
    for seed in range(5):
        given = given_problem(trials=40, seed=seed)
        losses = [loss(levels_of(given, each.candidate)) for batch in propose_all(name, given) for each in batch]
        early.append(np.mean(losses[1:11]))
        late.append(np.mean(losses[-10:]))
    assert np.mean(late) < 0.9 * np.mean(early)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("targets", [(0.5,), (0.5, 0.3)])
def test_failed_candidates_do_not_stop_it(name: str, targets: tuple[float, ...]) -> None:
    given = given_problem(targets, trials=12)
    count = iter(range(1000))

    def judge(levels: Levels, _: Proposal) -> Outcome:
        return failed_outcome("loss was NaN") if next(count) % 3 else outcome_of_loss(given, levels, loss(levels))

    assert sum(map(len, play_strategy(given, find_strategy(name)[1](given), judge))) == 12 * len(targets)
    assert sum(
        map(len, play_strategy(given, find_strategy(name)[1](given), lambda *_: failed_outcome("out of memory")))
    ) == 12 * len(targets)


def test_random_proposals_of_a_target_do_not_depend_on_the_other_targets() -> None:
    alone = keys_of(propose_all("random", given_problem((0.3,))))[0]
    together = keys_of(propose_all("random", given_problem((0.5, 0.3))))[0]
    assert together[len(alone) :] == alone


def test_nsga2_fills_the_front_between_several_targets() -> None:
    given = given_problem((0.3, 0.6, 0.45), trials=20)
    limits = {target.asked: budget.limits["flops"] for target, budget in given.targets}
    batches = propose_all("nsga2", given)
    assert [str(each.target) for each in batches[0][:3]] == ["0.3", "0.45", "0.6"]
    kept, exact = [], 0
    for each in (each for batch in batches for each in batch):
        flops = int(COST(levels_of(given, each.candidate)[None]).flops[0])
        assert flops <= limits[str(each.target)]
        tighter = [limit for limit in limits.values() if limit < limits[str(each.target)]]
        assert flops > max(tighter, default=0)
        exact += flops >= limits[str(each.target)] - TOLERANCE * COST.dense.flops
        kept.append(flops / COST.dense.flops)
    assert 10 < exact < 60
    assert max(np.diff(sorted(kept))) < 0.15


class Opposed:
    """Parameters fall along every ladder, FLOPs hardly do and in another order."""

    dense = Cost(10_000, 500, 2_000)

    def __call__(self, levels: Levels) -> Costs:
        params = 500 - levels.sum(1)
        flops = 10_000 - levels[:, 0] - 3 * levels[:, 4]
        return Costs(flops.astype(np.int64), params.astype(np.int64), 4 * params.astype(np.int64))


def test_nsga2_trades_worth_against_the_measure_of_its_targets() -> None:
    cost = Opposed()
    given = problem([64] * 5, cost, (), trials=8)
    targets = [(parse_target(f"params {kept}"), Budget({"params": int(kept * 500)}, cost)) for kept in (0.8, 0.5)]
    study = ShapeStudy(replace(given, targets=targets), "nsga2", NSGAIISampler(population_size=4, seed=0), [1, 0], [])
    shown = []
    while study.trials_left:
        batch = study.ask_batch(4)
        levels = [levels_of(given, each.candidate) for each in batch]
        shown += [int(cost(row[None]).params[0]) for row in levels]
        study.tell_outcomes([outcome_of_loss(given, row, loss(row)) for row in levels])
    told = [trial.values[0] for trial in study._study.trials]
    assert [one - told[0] for one in told] == pytest.approx([(params - shown[0]) / 500 for params in shown])
    assert len(set(told)) > 2


def test_they_are_known_as_sampling_and_need_no_scan() -> None:
    infos = strategy_infos()
    assert all(infos[name].samples and not infos[name].needs_data for name in NAMES)
    assert not infos["lagrangian"].samples
    assert infos["lagrangian"].needs_data


def test_optuna_stays_silent(capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("tpe", "nsga2"):
        propose_all(name, given_problem((0.5, 0.3), trials=5))
    assert capfd.readouterr() == ("", "")

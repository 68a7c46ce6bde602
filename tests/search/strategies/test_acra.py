"""ACRA's strategies against brute force, with measurements made up."""

from __future__ import annotations

import numpy as np
import pytest
from toys import ChainCost, even_sites, judged, toy_problem

from search.candidate import Outcome, failed_outcome
from search.strategies.acra import equal_drop_shape
from search.strategies.contract import Proposal
from search.strategies.problem import Problem, Scan
from search.strategies.registry import find_strategy
from search.strategies.sensitivity import Curve

SIZES, PLACES = [16, 16, 24, 24], [64, 64, 16, 16]


def acra_problem(**fields: object) -> Problem:
    return toy_problem(even_sites(SIZES), ChainCost(SIZES, PLACES), [0.7, 0.5, 0.3], **fields)


def drive_strategy(name: str, given_problem: Problem, measure: object) -> list[list[Proposal]]:
    """All batches of a strategy whose outcomes `measure` makes up."""
    program, batches = find_strategy(name)[1](given_problem), []
    try:
        batch = next(program)
        while True:
            batches.append(batch)
            batch = program.send([measure(proposal) for proposal in batch])  # type: ignore[operator]
    except StopIteration:
        return batches


def damage_outcomes(weights: list[float]) -> object:
    """Accuracy falls with the strength of each site, as hard as its weight says."""

    def measure(proposal: Proposal) -> Outcome:
        drop = sum(
            weights[int(site[1:])] * float(setting["ratio"]) for site, setting in proposal.candidate.allocation.items()
        )
        return judged(0.9 - drop, 0.3 + drop)

    return measure


def test_uniform_asks_for_one_candidate_a_target_and_nothing_else() -> None:
    given_problem = acra_problem()
    (batch,) = drive_strategy("acra-uniform", given_problem, damage_outcomes([0.1] * 4))
    assert [str(proposal.target) for proposal in batch] == ["0.7", "0.5", "0.3"]
    assert {proposal.stage for proposal in batch} == {"search"}
    for proposal, (_, budget) in zip(batch, given_problem.targets, strict=True):
        limit = budget.limits["flops"]
        ratios = [float(proposal.candidate.allocation.get(f"s{i}", {"ratio": 0})["ratio"]) for i in range(4)]
        kept = [round(size * (1 - ratio)) for size, ratio in zip(SIZES, ratios, strict=True)]
        flops = sum(a * b * p for a, b, p in zip([3, *kept[:-1]], kept, PLACES, strict=True))
        assert limit - 0.005 * given_problem.cost.dense.flops <= flops <= limit
        assert max(ratios) - min(ratios) <= 0.15


def test_sensitivity_compresses_most_what_hurts_least() -> None:
    scan, search = drive_strategy("acra-sensitivity", acra_problem(), damage_outcomes([0.05, 0.4, 0.05, 0.4]))
    assert {proposal.stage for proposal in scan} == {"scan"}
    for proposal in search:
        ratios = [float(proposal.candidate.allocation.get(f"s{i}", {"ratio": 0})["ratio"]) for i in range(4)]
        assert ratios[0] > ratios[1]
        assert ratios[2] > ratios[3]


def test_same_measurements_same_candidates() -> None:
    first, second = (
        drive_strategy("acra-sensitivity", acra_problem(), damage_outcomes([0.1, 0.2, 0.3, 0.05])) for _ in range(2)
    )
    assert first == second


def test_failed_measurements_do_not_stop_it() -> None:
    measure = damage_outcomes([0.1, 0.2, 0.3, 0.05])

    def patchy(proposal: Proposal) -> Outcome:
        alone = list(proposal.candidate.allocation)
        return failed_outcome("diverged") if alone == ["s2"] else measure(proposal)  # type: ignore[operator]

    *_, search = drive_strategy("acra-sensitivity", acra_problem(scan=Scan(3, 100)), patchy)
    assert len(search) == 3


def test_a_network_that_nothing_hurts_still_meets_its_targets() -> None:
    *_, search = drive_strategy("acra-sensitivity", acra_problem(), lambda proposal: judged(0.9))
    assert len(search) == 3
    assert all(proposal.candidate.allocation for proposal in search)


@pytest.mark.parametrize("seed", range(5))
def test_equal_drop_shape_by_brute_force(seed: int) -> None:
    """At each scale every site has the largest strength whose interpolated drop is within the scale's."""
    random = np.random.default_rng(seed)
    measured = []
    for _ in range(3):
        strengths = np.concatenate([[0], np.sort(random.uniform(0.05, 0.95, 4))])
        drops = np.concatenate([[0], np.sort(random.uniform(0, 0.5, 4))])
        measured.append(Curve(strengths, drops, drops))
    shape = equal_drop_shape(measured)
    worst = max(curve.score_drop[-1] for curve in measured)
    grid = np.linspace(0, 1, 20_001)
    for scale in (0.1, 0.35, 0.6, 0.9):
        levels = shape(np.array([scale]))[0]
        for site, curve in enumerate(measured):
            values = np.interp(grid, [*curve.strengths, 1.0], [*curve.score_drop, worst])
            best = grid[values <= scale * worst].max()
            # the code adds at most a thousandth of accuracy to the drops, to order settings that measure alike
            slope = np.diff([*curve.score_drop, worst]) / np.diff([*curve.strengths, 1.0])
            assert abs(levels[site] - best) <= 0.003 / max(slope.min(), 1e-2) + 1e-3


def test_equal_drop_shape_rises_from_nothing_to_everything() -> None:
    curve = Curve(np.array([0, 0.5]), np.array([0, 0.2]), np.array([0, 0.2]))
    flat = Curve(np.array([0, 0.5]), np.array([0.0, 0.0]), np.array([0.0, 0.0]))
    values = equal_drop_shape([curve, flat])(np.linspace(0, 1, 200))
    assert values[0].tolist() == [0, 0]
    assert values[-1] == pytest.approx([1, 1])
    assert (np.diff(values, axis=0) >= 0).all()
    assert (values[:, 1] >= values[:, 0]).all()

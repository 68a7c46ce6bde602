"""Predicted damages: their curves, and the scale that two methods of a composition are given."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_problems import Separable, levels_of, problem

from methods.base import Levels, Setting, Site
from search.candidate import Outcome, failed_outcome
from search.strategies.predictions import family_proposals, predicted_curves, scale_predictions
from search.strategies.problem import Problem
from search.strategies.registry import find_strategy


def test_curves_of_predictions_pass_through_every_strength() -> None:
    site = Site("s", tuple(Setting(level=k) for k in range(4)), (0.0, 0.3, 0.3, 0.8), ("s",), 4, damages=(0, 1, 2, 5))
    (curve,) = predicted_curves([site])
    assert curve.strengths.tolist() == [0.0, 0.3, 0.8]
    assert curve.drift.tolist() == curve.score_drop.tolist() == [0.0, 2.0, 5.0]


TRUE = {"narrow": 6.0, "factored": 0.5}  # what the damages of a family have to be multiplied by


@pytest.fixture
def composed() -> Problem:
    cost = Separable([[400, 300, 200, 100]] * 4)
    plain = problem([4] * 4, cost, [0.6])
    families = ["narrow", "narrow", "factored", "factored"]
    return replace(
        plain,
        sites=[
            replace(site, family=family, damages=(0.0, 0.01, 0.03, 0.07))
            for site, family in zip(plain.sites, families, strict=True)
        ],
    )


def outcome_at(composed: Problem, levels: Levels) -> Outcome:
    drift = 0.002 + sum(
        TRUE[site.family] * site.damages[level] for site, level in zip(composed.sites, levels, strict=True)
    )
    return Outcome(status="ok", loss=drift, drift=drift, accuracy=1 - drift, flops=1)


def test_each_method_is_measured_alone_and_scaled(composed: Problem) -> None:
    proposals = family_proposals(composed, "s")
    levels = [levels_of(composed, proposal.candidate) for proposal in proposals]
    assert [row.tolist() for row in levels] == [[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]
    assert all(proposal.stage == "scan" and proposal.candidate.images == 100 for proposal in proposals)
    scaled = scale_predictions(composed, [outcome_at(composed, row) for row in levels])
    for site in scaled.sites:
        assert site.damages == pytest.approx([TRUE[site.family] * damage for damage in (0, 0.01, 0.03, 0.07)])


def test_a_method_that_cannot_be_measured_is_thought_the_worst(composed: Problem) -> None:
    levels = [levels_of(composed, proposal.candidate) for proposal in family_proposals(composed, "s")]
    outcomes = [outcome_at(composed, levels[0]), outcome_at(composed, levels[1]), failed_outcome("no memory")]
    scaled = scale_predictions(composed, outcomes)
    assert scaled.sites[3].damages == pytest.approx(scaled.sites[0].damages)


def test_lagrangian_compresses_what_hurts_least_by_measurement(composed: Problem) -> None:
    program = find_strategy("lagrangian")[1](composed)
    batch = next(program)
    batch = program.send([outcome_at(composed, levels_of(composed, proposal.candidate)) for proposal in batch])
    levels = levels_of(composed, batch[0].candidate)
    assert batch[0].stage == "search"
    assert levels[2:].sum() > 2 * levels[:2].sum()

"""ACRA, automatic compression-ratio allocation: its uniform and its sensitivity-based strategy.

Both project a shape onto the target: one common scale, found by bisection on the cost of the whole compressed network
(`search.allocation.allocate`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.allocation.allocate import Floats, Shape, project_shape, uniform_shape
from search.strategies.contract import Program, Proposal
from search.strategies.problem import Problem
from search.strategies.sensitivity import Curve, scan_proposals, sensitivity_curves

# Accuracy that one unit of strength costs in addition to the measured drop, far below one image in a hundred. Between
# settings with the same measured drop the gentler one is preferred.
GENTLE = 1e-3


def acra_uniform(problem: Problem) -> Program:
    """One candidate per target, found without data."""
    yield _project_onto_targets(problem, "acra-uniform", uniform_shape(len(problem.sites)))


def acra_sensitivity(problem: Problem) -> Program:
    """A scan, then one candidate per target."""
    measured = sensitivity_curves(problem, (yield scan_proposals(problem, "acra-sensitivity")))
    yield _project_onto_targets(problem, "acra-sensitivity", equal_drop_shape(measured))


def _project_onto_targets(problem: Problem, name: str, shape: Shape) -> list[Proposal]:
    proposals = []
    for target, budget in problem.targets:
        solution = project_shape(shape, problem.sites, budget)
        proposals.append(Proposal(problem.candidate(solution.levels), "search", name, target))
    return proposals


def equal_drop_shape(measured: Sequence[Curve]) -> Shape:
    """Every site at the largest strength within one common accuracy drop, which the scale sets.

        strengthᵢ(s) = dropᵢ⁻¹(s · worst drop),   dropᵢ(x) = measured dropᵢ(x) + GENTLE · x

    Beyond the last measurement of a site its curve rises linearly to the worst drop of all sites at strength 1, so that
    scale 1 takes every site to the end of its ladder.
    """
    worst = max(float(curve.score_drop[-1]) for curve in measured) + GENTLE
    inverses = []
    for curve in measured:
        strengths = np.append(curve.strengths, 1.0)
        drops = np.append(curve.score_drop, worst) + GENTLE * strengths
        inverses.append((drops, strengths))

    def equal_drop_strengths(scales: Floats) -> Floats:
        limits = scales * (worst + GENTLE)
        return np.stack([np.interp(limits, drops, strengths) for drops, strengths in inverses], axis=1)

    return equal_drop_strengths

"""Lagrangian allocation: the least sum of the drifts that sensitivity curves predict, within the budget.

    minimise   Σᵢ driftᵢ(lᵢ)   subject to   figureₘ(l) ≤ limitₘ for every measure m   (`search.allocation.minimise`)

One scan serves every target; a method that predicts the damage of its settings in closed form needs none. Curves are
those of each site alone and without fine-tuning: how drifts add up in a whole network, and how much of them training
heals, differs from method to method. So the solution competes with rivals that assume less, the uniform allocation
among them. Short fine-tunes decide, and a second round tries the allocations halfway between the best ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from methods.base import Levels, Site, as_key
from search.allocation.allocate import Floats, Ladders, Shape, project_shape, uniform_shape
from search.allocation.budget import Budget
from search.allocation.minimise import minimise_damage
from search.allocation.targets import Target
from search.candidate import Outcome
from search.ranking import rank_searched
from search.strategies.acra import equal_drop_shape
from search.strategies.contract import Program, Proposal
from search.strategies.predictions import family_proposals, predicted_curves, scale_predictions
from search.strategies.problem import Problem
from search.strategies.records import LAGRANGIAN_PARENTS
from search.strategies.sensitivity import Curve, scan_proposals, sensitivity_curves

NAME = "lagrangian"
# Drift in nats that one unit of strength costs in addition to the measured drift. Between settings with the same
# measured drift the gentler one is preferred.
GENTLE = 2e-4


def lagrangian_allocation(problem: Problem) -> Program:
    """A scan, or predictions; per target the solution and its rivals; then those halfway between the best of these."""
    if problem.predicts_damages:
        if len(problem.families) > 1:
            problem = scale_predictions(problem, (yield family_proposals(problem, NAME)))
        curves = predicted_curves(problem.sites)
    else:
        curves = sensitivity_curves(problem, (yield scan_proposals(problem, NAME)))
    contests = [_Contest(problem, target, budget, curves) for target, budget in problem.targets]
    outcomes = yield [proposal for contest in contests for proposal in contest.proposals_of(contest.levels)]
    halves = []
    for contest in contests:
        halves += contest.proposals_of(contest.halfway_levels(outcomes[: len(contest.levels)]))
        outcomes = outcomes[len(contest.levels) :]
    if halves:
        yield halves


class _Contest:
    """The candidates of one target, each allocation once."""

    def __init__(self, problem: Problem, target: Target, budget: Budget, measured: Sequence[Curve]) -> None:
        self._problem, self._target, self._budget = problem, target, budget
        self.levels = _distinct_levels(rival_allocations(problem, measured, budget), problem.trials)

    def halfway_levels(self, outcomes: Sequence[Outcome]) -> list[Levels]:
        """Allocations halfway between each two of the best, those of the best two first.

        Args:
            outcomes: of `levels`, in the same order.
        """
        names = [(f"{number:03}",) for number in range(len(outcomes))]
        best = [parent.candidate for parent in rank_searched(self.levels, outcomes, names)[:LAGRANGIAN_PARENTS]]
        ladders = Ladders(self._problem.sites)
        halves = [
            project_shape(
                halfway_shape(ladders.strengths_at(first), ladders.strengths_at(second)),
                self._problem.sites,
                self._budget,
            )
            for first, second in itertools.combinations(best, 2)
        ]
        distinct = _distinct_levels([*self.levels, *(half.levels for half in halves)], self._problem.trials)
        return distinct[len(self.levels) :]

    def proposals_of(self, chosen: Sequence[Levels]) -> list[Proposal]:
        return [Proposal(self._problem.candidate(levels), "search", NAME, self._target) for levels in chosen]


def rival_allocations(problem: Problem, measured: Sequence[Curve], budget: Budget) -> Iterator[Levels]:
    """The allocation of least summed damage, and three that do not assume that damages add up.

    The least sum of squares assumes that damages make each other worse; the same strength for all sites assumes nothing
    about the curves; the same accuracy drop for all sites is that of `acra-sensitivity`.
    """
    if problem.predicts_damages:
        damage = [np.array(site.damages) for site in problem.sites]
    else:
        damage = predicted_damages(problem.sites, measured)
    uniform = project_shape(uniform_shape(len(problem.sites)), problem.sites, budget).levels
    yield minimise_damage(damage, budget, starts=[uniform])
    yield minimise_damage([table**2 for table in damage], budget, starts=[uniform])
    yield uniform
    yield project_shape(equal_drop_shape(measured), problem.sites, budget).levels


def halfway_shape(first_strengths: Floats, second_strengths: Floats) -> Shape:
    """A shape through the mean of two allocations at scale ½; dense at 0, every site at its smallest at 1.

        strength(s) = 1 − (1 − mean)^(s / (1 − s))

    A site that is dense in both allocations stays dense.

    Args:
        first_strengths, second_strengths: (n_sites,).
    """
    kept_shares = 1 - np.clip((first_strengths + second_strengths) / 2, 0, 1)

    def strengths_at(scales: Floats) -> Floats:
        with np.errstate(divide="ignore"):
            exponents = scales / (1 - scales)
        return 1 - np.where(kept_shares < 1, kept_shares ** exponents[:, None], 1.0)

    return strengths_at


def _distinct_levels(levels: Iterable[Levels], limit: int) -> list[Levels]:
    """The first `limit` different allocations; the iterable, which solves for each, is read no further."""
    distinct: dict[tuple[int, ...], Levels] = {}
    for allocation in levels:
        distinct.setdefault(as_key(allocation), allocation)
        if len(distinct) == limit:
            break
    return list(distinct.values())


def predicted_damages(sites: Sequence[Site], measured: Sequence[Curve]) -> list[Floats]:
    """Predicted drift of every setting of every site, in nats, per site non-decreasing along its ladder.

    Between measurements it follows a monotone cubic. Beyond the last measurement nothing is known: it rises
    linearly, by the largest drift of all sites at strength 1.
    """
    worst = max(float(curve.drift[-1]) for curve in measured) + GENTLE
    tables = []
    for site, curve in zip(sites, measured, strict=True):
        strengths = np.array(site.strengths)
        last = curve.strengths[-1]
        beyond = np.clip((strengths - last) / max(1 - last, 1e-9), 0, 1) * worst
        rise = monotone_cubic(curve.strengths, curve.drift, np.minimum(strengths, last))
        tables.append(np.maximum.accumulate(rise + beyond + GENTLE * strengths))
    return tables


def monotone_cubic(x: Floats, y: Floats, at: Floats) -> Floats:
    """Piecewise cubic through non-decreasing points that does not overshoot them (Fritsch and Butland, 1984).

    Inside, the tangents are those of SciPy's PCHIP. At the two ends PCHIP extrapolates the slope from three points;
    here it is the slope of the end interval, because only a curve's first measurement says how the curve begins. With
    PCHIP's own ends the predicted drifts, and so the proposals of recorded runs, would change.
    """
    if len(x) < 3:  # a straight line has no inner tangents
        return np.interp(at, x, y)
    # Imported here for start-up time: SciPy's interpolation takes long to import, and few commands scan.
    from scipy.interpolate import CubicHermiteSpline, PchipInterpolator

    slopes = np.diff(y) / np.diff(x)
    tangents = PchipInterpolator(x, y).derivative()(x)
    tangents[[0, -1]] = slopes[[0, -1]]
    values: Floats = CubicHermiteSpline(x, y, tangents)(at)
    return values

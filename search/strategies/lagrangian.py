"""Lagrangian allocation: least summed drift predicted from sensitivity curves, within the budget.

One scan serves every target. The curves know each site alone; smaller scans then move every site a notch from the
solution, so that the curves are weighed anew where the other sites are compressed too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from methods.base import Levels, Site
from search.allocation.allocate import Floats, project, uniform_shape
from search.allocation.budget import Budget
from search.allocation.minimise import minimise
from search.candidate import Outcome
from search.strategies.sensitivity import Curve, curves, scan_proposals
from search.strategy import Problem, Program, Proposal, StrategyInfo, register

NAME = "lagrangian"
# Drift in nats that one unit of strength is taken to cost on top of what was measured. It orders settings between
# which the measurement saw no difference, towards the gentler.
GENTLE = 1e-3
ROUNDS = 2  # of measuring around the solution; a third brought nothing more on ResNet-20
_REACH = 2  # how many steps of the scan a site may move in a round: the measured slopes hold near by
_WALL = 1e3  # nats per unit of strength beyond that
_TRUST = 4.0  # a site's curve is weighed anew by at most this factor, either way: differences are noisy


@register(
    StrategyInfo(
        NAME,
        "least summed drift of the sites' sensitivity curves within the FLOPs, weighed anew around the solution",
        "Everett, 1963 (multipliers for discrete allocation)",
        rounds=ROUNDS,
    )
)
def lagrangian(problem: Problem) -> Program:
    """A scan, two rounds around each target's solution, then per target the solution of least measured drift."""
    measured = curves(problem, (yield scan_proposals(problem, NAME)))
    tracks = [_Track(problem, damages(problem.sites, measured), budget) for _, budget in problem.targets]
    for _ in range(ROUNDS):
        batches = [track.batch() for track in tracks]
        outcomes = yield [_scan(problem, levels) for batch in batches for levels in batch]
        for track, batch in zip(tracks, batches, strict=True):
            track.learn(batch, outcomes[: len(batch)])
            outcomes = outcomes[len(batch) :]
    outcomes = yield [_scan(problem, track.levels) for track in tracks]
    for track, outcome in zip(tracks, outcomes, strict=True):
        track.note(outcome)
    pairs = zip(tracks, problem.targets, strict=True)
    yield [Proposal(problem.candidate(track.best), "search", NAME, target.asked) for track, (target, _) in pairs]


class _Track:
    """One target's way from the solution of the scan alone to those that were measured around."""

    def __init__(self, problem: Problem, damage: Sequence[Floats], budget: Budget) -> None:
        self._problem, self._damage, self._budget = problem, damage, budget
        self.levels = self.best = solve(problem, damage, budget)
        self._least = math.inf

    def batch(self) -> list[Levels]:
        """The solution, then for every site the solution with that site softer, and harder, by a step of the scan."""
        return [self.levels, *probes(self._problem, self.levels)]

    def learn(self, batch: Sequence[Levels], outcomes: Sequence[Outcome]) -> None:
        """Note what the solution costs, weigh the curves anew and go to the solution of these."""
        self.note(outcomes[0])
        sites, before = self._problem.sites, self.levels
        self._damage = reweighed(sites, self._damage, before, batch[1:], outcomes[1:])
        reach = _REACH * step_of(self._problem)
        self.levels = solve(self._problem, walled(sites, self._damage, before, reach), self._budget, start=before)

    def note(self, outcome: Outcome) -> None:
        """Keep the solution if it was measured to drift least."""
        if outcome.drift is not None and outcome.drift < self._least:
            self._least, self.best = outcome.drift, self.levels


def solve(problem: Problem, damage: Sequence[Floats], budget: Budget, *, start: Levels | None = None) -> Levels:
    """Least damage within the budget; the descent starts from the uniform allocation too."""
    uniform = project(uniform_shape(len(problem.sites)), problem.sites, budget).levels
    return minimise(damage, budget, starts=[uniform] if start is None else [uniform, start])


def step_of(problem: Problem) -> float:
    """The strength between two measurements of the scan, on the longest ladder."""
    return max(site.strengths[-1] for site in problem.scanned) / (problem.scan.levels + 1)


def walled(sites: Sequence[Site], damage: Sequence[Floats], levels: Levels, reach: float) -> list[Floats]:
    """The same damage within `reach` of the strengths at `levels`; beyond, rising steeply to both sides."""
    tables = []
    for site, table, level in zip(sites, damage, levels, strict=True):
        strengths = np.array(site.strengths)
        tables.append(table + _WALL * np.maximum(np.abs(strengths - strengths[level]) - reach, 0.0))
    return tables


def damages(sites: Sequence[Site], measured: Sequence[Curve]) -> list[Floats]:
    """Predicted drift for every setting of every site, in nats; never falls along a ladder.

    Between measurements a monotone cubic; beyond the last one, where nothing is known, straight up by the largest
    rise seen anywhere, reached at strength 1.
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
    """Piecewise cubic through non-decreasing points that does not overshoot them (Fritsch and Butland, 1984)."""
    if len(x) < 3:
        return np.interp(at, x, y)
    h, slope = np.diff(x), np.diff(y) / np.diff(x)
    w1, w2 = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
    with np.errstate(divide="ignore"):  # a flat piece has slope 0, and so have its ends
        inner = (w1 + w2) / (w1 / slope[:-1] + w2 / slope[1:])
    tangent = np.concatenate([slope[:1], inner, slope[-1:]])
    piece = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(h) - 1)
    t, step = (at - x[piece]) / h[piece], h[piece]
    ends = (1 + 2 * t) * (1 - t) ** 2 * y[piece] + t**2 * (3 - 2 * t) * y[piece + 1]
    result: Floats = ends + step * t * (1 - t) * ((1 - t) * tangent[piece] - t * tangent[piece + 1])
    return result


def probes(problem: Problem, levels: Levels) -> list[Levels]:
    """Two for every site: `levels` with that site softer, and harder, by a step of the scan, as far as it goes."""
    found = []
    for index, site in enumerate(problem.sites):
        strengths = np.array(site.strengths)
        for sign in (-1, 1):
            row = levels.copy()
            row[index] = int(np.abs(strengths - strengths[levels[index]] - sign * step_of(problem)).argmin())
            found.append(row)
    return found


def _scan(problem: Problem, levels: Levels) -> Proposal:
    return Proposal(problem.scan_candidate(levels), "scan", NAME)


def reweighed(
    sites: Sequence[Site],
    damage: Sequence[Floats],
    levels: Levels,
    batch: Sequence[Levels],
    outcomes: Sequence[Outcome],
) -> list[Floats]:
    """Each site's curve made as steep around the solution as its two probes say.

    The curve is multiplied, within `_TRUST`; what it is then still short of is added as a straight line, so that a
    curve that is flat alone can rise where other sites are compressed.

    Args:
        batch: the probes of `probes`, two per site; `outcomes` theirs.
    """
    tables = []
    for index, (site, table) in enumerate(zip(sites, damage, strict=True)):
        softer, harder = batch[2 * index][index], batch[2 * index + 1][index]
        before, after = outcomes[2 * index].drift, outcomes[2 * index + 1].drift
        strengths = np.array(site.strengths)
        apart, predicted = strengths[harder] - strengths[softer], float(table[harder] - table[softer])
        if apart <= 0 or predicted <= 0 or before is None or after is None:
            tables.append(table)
            continue
        factor = float(np.clip((after - before) / predicted, 1 / _TRUST, _TRUST))
        missing = max(after - before - factor * predicted, 0.0)
        tables.append(factor * table + missing / apart * strengths)
    return tables

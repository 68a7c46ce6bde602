"""Lagrangian allocation: least summed loss predicted from sensitivity curves, within the FLOPs limit.

One scan serves every target. The curves know each site alone; a second, smaller scan moves every site a notch from
the solution, so that the curves are weighed anew where the other sites are compressed too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from methods.base import Levels, Site
from search.allocate import Floats, project, uniform_shape
from search.candidate import Outcome
from search.minimise import minimise
from search.sensitivity import Curve, curves, scan_proposals
from search.strategy import Problem, Program, Proposal, StrategyInfo, register

NAME = "lagrangian"
# Loss in nats that one unit of strength is taken to cost on top of what was measured. It orders settings between
# which the measurement saw no difference, towards the gentler.
GENTLE = 1e-3
_TRUST = 4.0  # a site's curve is weighed anew by at most this factor, either way: differences of losses are noisy


@register(
    StrategyInfo(
        NAME,
        "least summed loss of the sites' sensitivity curves within the FLOPs, weighed anew around the solution",
        "Everett, 1963 (multipliers for discrete allocation)",
    )
)
def lagrangian(problem: Problem) -> Program:
    """A scan, one round around each target's solution, then per target the better of both solutions."""
    measured = curves(problem, (yield scan_proposals(problem, NAME)))
    damage = damages(problem.sites, measured)
    first = [solve(problem, damage, limit) for _, limit in problem.targets]
    probes = [_probes(problem, levels) for levels in first]
    outcomes = yield [proposal for batch in probes for proposal in _scans(problem, batch)]
    second = []
    for (_, limit), levels, batch in zip(problem.targets, first, probes, strict=True):
        own, outcomes = outcomes[: len(batch)], outcomes[len(batch) :]
        around = reweighed(problem.sites, damage, levels, batch, own)
        second.append(solve(problem, around, limit, start=levels))
    outcomes = yield _scans(problem, [*first, *second])
    proposals = []
    for index, (target, _) in enumerate(problem.targets):
        before, after = outcomes[index], outcomes[len(first) + index]
        levels = second[index] if _loss(after) < _loss(before) else first[index]
        proposals.append(Proposal(problem.candidate(levels), "search", NAME, target.asked))
    yield proposals


def solve(problem: Problem, damage: Sequence[Floats], limit: int, *, start: Levels | None = None) -> Levels:
    """Least damage within the limit; the descent starts from the uniform allocation too."""
    uniform = project(uniform_shape(len(problem.sites)), problem.sites, problem.cost, limit).levels
    return minimise(damage, problem.cost, limit, starts=[uniform] if start is None else [uniform, start])


def damages(sites: Sequence[Site], measured: Sequence[Curve]) -> list[Floats]:
    """Predicted rise of the loss for every setting of every site, in nats; never falls along a ladder.

    Between measurements a monotone cubic; beyond the last one, where nothing is known, straight up by the largest
    rise seen anywhere, reached at strength 1.
    """
    worst = max(float(curve.loss_rise[-1]) for curve in measured) + GENTLE
    tables = []
    for site, curve in zip(sites, measured, strict=True):
        strengths = np.array(site.strengths)
        last = curve.strengths[-1]
        beyond = np.clip((strengths - last) / max(1 - last, 1e-9), 0, 1) * worst
        rise = monotone_cubic(curve.strengths, curve.loss_rise, np.minimum(strengths, last))
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


def _probes(problem: Problem, levels: Levels) -> list[Levels]:
    """For every site the solution with that site softer, and harder, by a step of the scan, as far as they exist."""
    return [row for site in range(len(levels)) for row in _around(problem, levels, site)]


def _around(problem: Problem, levels: Levels, index: int) -> Iterator[Levels]:
    strengths = np.array(problem.sites[index].strengths)
    step = strengths[-1] / (problem.scan.levels + 1)
    now = strengths[levels[index]]
    for wanted in (max(now - step, 0.0), min(now + step, strengths[-1])):
        row = levels.copy()
        row[index] = int(np.abs(strengths - wanted).argmin())
        yield row


def _scans(problem: Problem, batch: Sequence[Levels]) -> list[Proposal]:
    return [Proposal(problem.scan_candidate(levels), "scan", NAME) for levels in batch]


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
        batch: the probes of `_probes`, two per site; `outcomes` theirs.
    """
    tables = []
    for index, (site, table) in enumerate(zip(sites, damage, strict=True)):
        softer, harder = batch[2 * index][index], batch[2 * index + 1][index]
        before, after = outcomes[2 * index].loss, outcomes[2 * index + 1].loss
        strengths = np.array(site.strengths)
        apart, predicted = strengths[harder] - strengths[softer], float(table[harder] - table[softer])
        if apart <= 0 or predicted <= 0 or before is None or after is None:
            tables.append(table)
            continue
        factor = float(np.clip((after - before) / predicted, 1 / _TRUST, _TRUST))
        missing = max(after - before - factor * predicted, 0.0)
        tables.append(factor * table + missing / apart * strengths)
    return tables


def _loss(outcome: Outcome) -> float:
    return float("inf") if outcome.loss is None else outcome.loss

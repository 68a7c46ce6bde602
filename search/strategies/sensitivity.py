"""Sensitivity curves: drop of the score and drift of the network with one site compressed, without fine-tuning.

Drops are differences of shares (accuracy, other percentages), of other metrics shares of the dense score. A task that
compares no outputs has no drift: its drop stands in for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from methods.base import Site
from models.errors import UserError
from search.candidate import Outcome
from search.strategies.contract import Proposal
from search.strategies.problem import Problem

Floats = npt.NDArray[np.float64]
Measurement = tuple[float, float, float]  # strength, drop of the score, drift


@dataclass(frozen=True)
class Point:
    """One measurement: a site alone at one level of its ladder."""

    site: int
    level: int


def scan_points(sites: Sequence[Site], levels: int) -> list[Point]:
    """For every site the settings nearest to `levels` evenly spaced strengths between dense and the smallest."""
    points = []
    for index, site in enumerate(sites):
        strengths = np.array(site.strengths)
        wanted = strengths[-1] * np.arange(1, levels + 1) / (levels + 1)
        nearest = np.abs(strengths[None] - wanted[:, None]).argmin(1)
        points += [Point(index, int(level)) for level in sorted(set(nearest.tolist()) - {0})]
    return points


def scan_proposals(problem: Problem, strategy: str) -> list[Proposal]:
    """The dense network first, then every point of the scan."""
    points = scan_points(problem.scanned_sites, problem.scan.levels)
    candidates = [problem.scan_candidate(), *(problem.scan_candidate(point.site, point.level) for point in points)]
    return [Proposal(candidate, "scan", strategy) for candidate in candidates]


@dataclass(frozen=True)
class Curve:
    """Damage of one site by its strength: begins at (0, 0), non-decreasing."""

    strengths: Floats  # (n,)
    score_drop: Floats  # (n,)
    drift: Floats  # (n,) nats


def sensitivity_curves(problem: Problem, outcomes: Sequence[Outcome]) -> list[Curve]:
    """Curves from the outcomes of `scan_proposals`, in the same order.

    Noise can make a stronger setting look better, so the curve is the running maximum. A failed measurement is left out
    if a stronger setting of the site was measured; otherwise the site counts as broken from there on, with the largest
    damage of all sites.
    """
    dense, measured = outcomes[0], outcomes[1:]
    if dense.score is None:
        raise UserError(f"the dense network could not be judged: {dense.reason}")
    measurements: list[list[Measurement]] = [[(0.0, 0.0, 0.0)] for _ in problem.sites]
    broken: list[list[float]] = [[] for _ in problem.sites]  # strengths beyond the last success
    for point, outcome in zip(scan_points(problem.scanned_sites, problem.scan.levels), measured, strict=True):
        strength = problem.scanned_sites[point.site].strengths[point.level]
        if outcome.score is None:
            broken[point.site].append(strength)
            continue
        # A success at this strength shows that the failures at smaller strengths were not the site's end.
        measurements[point.site].append((strength, *damage_of(outcome, dense)))
        broken[point.site].clear()
    _, worst_drop, worst_drift = (max(column) for column in zip(*itertools.chain(*measurements), strict=True))
    curves = []
    for measured_points, broken_strengths in zip(measurements, broken, strict=True):
        broken_points = [(strength, worst_drop, worst_drift) for strength in broken_strengths]
        strengths, drops, drifts = np.array([*measured_points, *broken_points]).T
        curves.append(Curve(strengths, np.maximum.accumulate(drops), np.maximum.accumulate(drifts)))
    return curves


def damage_of(outcome: Outcome, dense: Outcome) -> tuple[float, float]:
    """Drop of the score, and drift, from the dense network's measurement; both have scores."""
    assert outcome.score is not None
    assert dense.score is not None
    drop = dense.metric.worth(dense.score) - dense.metric.worth(outcome.score)
    if dense.metric.unit != "%" and dense.score:
        drop /= abs(dense.score)
    return drop, drop if outcome.drift is None or dense.drift is None else outcome.drift - dense.drift

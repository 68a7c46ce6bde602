"""From a shape to an allocation that meets the target: bisection on a common scale, then a fill of what rounding left.

ACRA's observation carries all of this: costs fall monotonically in the scale, so the scale is found by bisection on
the cost model alone, in O(log 1/ε) evaluations, none of which touches data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from methods.base import Cost, CostModel, Levels, Site
from models.errors import UserError
from search.allocation.budget import Budget, LatencyModel
from search.allocation.targets import MEASURES, TOLERANCE, Target

Floats = npt.NDArray[np.float64]
MISSED = {
    True: "the settings are too coarse to meet it; this is the closest below it",
    False: "by the curves measured, coming nearer to it costs more than it brings",
}
"""Why a target is not met within the tolerance, by `too_coarse`."""
Shape = Callable[[Floats], Floats]
"""Scales (n,) in [0, 1] -> wanted strengths (n, n_sites), non-decreasing in the scale; 0 dense, 1 the smallest."""

_PROBES = 33  # scales tried at once in a round of the search; the interval shrinks 32-fold a round
_ROUNDS = 5  # 32^-5 = 3e-8, finer than any ladder
_ROWS = 20_000  # allocations tried at once when steps are exchanged between two sites


@dataclass(frozen=True)
class Solution:
    """Levels for every site and what they cost."""

    levels: Levels  # (n_sites,)
    cost: Cost
    met: bool
    """Within `TOLERANCE` of the dense figure below the limit that binds."""


class Ladders:
    """Strengths of all sites as one padded table, for looking up many levels at once."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self.last = np.array([len(site.settings) - 1 for site in sites], dtype=np.intp)
        self.strengths = np.full((len(sites), int(self.last.max(initial=0)) + 1), np.inf)  # (n_sites, most settings)
        for row, site in enumerate(sites):
            self.strengths[row, : len(site.strengths)] = site.strengths

    def levels(self, wanted: Floats) -> Levels:
        """Per site the last setting at most as strong as `wanted`, (n, n_sites) -> (n, n_sites)."""
        found = [
            np.searchsorted(row, wanted[:, site] + 1e-9, side="right") - 1 for site, row in enumerate(self.strengths)
        ]
        return np.maximum(np.stack(found, axis=1), 0).astype(np.intp)  # a bounded site may begin above what is wanted

    def strength_at(self, levels: Levels) -> Floats:
        return self.strengths[np.arange(len(self.last)), levels]


def ends(sites: Sequence[Site]) -> Levels:
    """The hardest and the gentlest allocation, (2, n_sites)."""
    last = Ladders(sites).last
    return np.stack([last, np.zeros_like(last)])


def check_reachable(
    target: Target,
    sites: Sequence[Site],
    cost: CostModel,
    latency: LatencyModel | None = None,
    *,
    method: str,
    network: str,
    skipped: Mapping[str, str] | None = None,
) -> Budget:
    """The target on this network; UserError, naming the range, if no allocation can meet it.

    Args:
        latency: needed for a target that asks for it.
        skipped: layers left dense with the reasons; the first ones are named where that may explain the range.
    """
    free = Budget(dict.fromkeys(target.measures, 0), cost, latency)
    budget = Budget({part.measure: part.limit(free.dense(part.measure)) for part in target.parts}, cost, latency)
    for part, limit, (least, most) in zip(target.parts, budget.limits.values(), reach(budget, sites), strict=True):
        measure, dense = MEASURES[part.measure], budget.dense(part.measure)
        loose = limit > most and (len(target.parts) == 1 or _never_binds(budget, sites))
        if limit < least or loose:
            words = f"{measure.number(least)} to {measure.text(most)}"
            raise UserError(
                f"target {part.asked!r} ({measure.text(limit)}) is out of reach: {method} on {network} can leave "
                f"{words}, kept {least / dense:.4f} to {most / dense:.4g}" + _dense_layers(skipped or {})
            )
    return budget


def reach(budget: Budget, sites: Sequence[Site]) -> list[tuple[int, int]]:
    """For each measure of the budget the least and the most that can be left."""
    if not sites:
        return [(budget.dense(measure), budget.dense(measure)) for measure in budget.limits]
    return [(int(least), int(most)) for least, most in budget.figures(ends(sites))]


def _never_binds(budget: Budget, sites: Sequence[Site]) -> bool:
    """Whether even the gentlest allocation stays below all limits, strictly."""
    return bool(sites) and bool((budget.shares(ends(sites))[:, 1] < 0).all())


def _dense_layers(skipped: Mapping[str, str]) -> str:
    """The first layers that stay dense, for a range that is smaller than expected; outputs always stay."""
    telling = [f"{layer} ({reason})" for layer, reason in skipped.items() if "output of the network" not in reason]
    more = f" and {len(telling) - 2} more" if len(telling) > 2 else ""
    return f"; left dense: {', '.join(telling[:2])}{more}" if telling else ""


def uniform_shape(n_sites: int) -> Shape:
    """The same strength for every site (ACRA, uniform)."""
    return lambda scales: np.repeat(scales[:, None], n_sites, axis=1)


def project(shape: Shape, sites: Sequence[Site], budget: Budget) -> Solution:
    """The gentlest allocation along `shape` within the budget, which is reachable, filled up to it."""
    ladders = Ladders(sites)
    levels, scale = find_scale(shape, ladders, budget)
    wanted = np.clip(shape(np.array([scale])), 0.0, 1.0)[0]
    levels = _fill(levels, wanted, ladders, budget)
    return Solution(levels, budget.cost_of(levels), budget.met(levels))


def find_scale(shape: Shape, ladders: Ladders, budget: Budget) -> tuple[Levels, float]:
    """The gentlest levels along `shape` within the budget, and the least scale that gives them.

    Where even the scale 1 is above the budget, because the shape ends too soon, every site takes its last setting.
    """
    levels, low, high = ladders.last, 0.0, 1.0
    for _ in range(_ROUNDS):
        scales = np.linspace(low, high, _PROBES)
        tried = ladders.levels(np.clip(shape(scales), 0.0, 1.0))
        fits = np.flatnonzero(budget.excess(tried) <= 0)
        if not len(fits):  # in the first round alone: afterwards `high` itself fits
            break
        first = int(fits[0])
        levels, high = tried[first], float(scales[first])
        if first == 0:
            break
        low = float(scales[first - 1])
    return levels, high


def too_coarse(sites: Sequence[Site], budget: Budget) -> bool:
    """Whether the settings themselves keep an allocation from coming within the tolerance of the budget."""
    return not project(uniform_shape(len(sites)), sites, budget).met


def _fill(levels: Levels, wanted: Floats, ladders: Ladders, budget: Budget) -> Levels:
    """Use up what rounding left: relax sites by single steps, then exchange steps between two sites."""
    levels = _relax(levels, wanted, ladders, budget)
    for _ in range(2 * len(levels)):
        if budget.met(levels):
            break
        better = _exchange(levels, wanted, ladders, budget)
        if better is None:
            break
        levels = _relax(better, wanted, ladders, budget)  # an exchange may have made room for a step
    return levels


def _relax(levels: Levels, wanted: Floats, ladders: Ladders, budget: Budget) -> Levels:
    """One step towards dense at a time, first where a site is furthest above the strength wanted of it."""
    while True:
        movable = np.flatnonzero(levels > 0)
        if not len(movable):
            return levels
        tried = np.repeat(levels[None], len(movable), axis=0)
        tried[np.arange(len(movable)), movable] -= 1
        fits = budget.excess(tried) <= 0
        if not fits.any():
            return levels
        excess = (ladders.strength_at(levels) - wanted)[movable]
        excess[~fits] = -np.inf
        levels = tried[int(np.argmax(excess))]


def _exchange(levels: Levels, wanted: Floats, ladders: Ladders, budget: Budget) -> Levels | None:
    """Of the changes that keep to the budget the one nearest to `wanted`; else what comes closest; None without a gain.

    Single steps of two sites are tried first, then as many steps at once as `_ROWS` allocations allow, then every
    allocation near this one if the sites are few.
    """
    present, sites = float(budget.excess(levels[None])[0]), len(levels)
    widest = max(1, min(int((_ROWS / sites**2) ** 0.5), int(ladders.last.max())))
    box = int((_ROWS ** (1 / sites) - 1) / 2)
    for neighbours, steps in ((_pairs, 1), (_pairs, widest), (_box, box)):
        tried = neighbours(levels, ladders.last, steps)
        if not len(tried):
            continue
        excess = budget.excess(tried)
        excess[excess > 0] = -np.inf
        near = np.flatnonzero(excess >= -TOLERANCE)
        astray = np.abs(ladders.strength_at(tried[near]) - wanted).sum(1)
        best = int(near[np.argmin(astray)]) if len(near) else int(np.argmax(excess))
        if excess[best] > present:
            return tried[best]
    return None


def _pairs(levels: Levels, last: Levels, most: int) -> Levels:
    """Every allocation with one site up to `most` steps gentler and another up to `most` harder."""
    sites, steps = np.arange(len(levels)), np.arange(1, most + 1)
    up, down, a, b = (axis.ravel() for axis in np.meshgrid(sites, sites, steps, steps, indexing="ij"))
    fits = (up != down) & (a <= levels[up]) & (b <= (last - levels)[down])
    up, down, a, b = up[fits], down[fits], a[fits], b[fits]
    rows = np.arange(len(up))
    tried = np.repeat(levels[None], len(up), axis=0)
    tried[rows, up] -= a
    tried[rows, down] += b
    return tried


def _box(levels: Levels, last: Levels, most: int) -> Levels:
    """Every allocation with no site more than `most` steps away."""
    if most < 1:
        return levels[None][:0]
    steps = [
        np.arange(max(level - most, 0), min(level + most, end) + 1) for level, end in zip(levels, last, strict=True)
    ]
    return np.stack([axis.ravel() for axis in np.meshgrid(*steps, indexing="ij")], axis=1)

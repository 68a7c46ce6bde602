"""From a shape to an allocation that meets the target: bisection on a common scale, then a fill of what rounding left.

ACRA's observation carries all of this: FLOPs fall monotonically in the scale, so the scale is found by bisection on
the cost model alone, in O(log 1/ε) evaluations, none of which touches data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from methods.base import Cost, CostModel, Levels, Site
from models.errors import UserError
from search.targets import TOLERANCE, Target, flops_text

Floats = npt.NDArray[np.float64]
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
    """Within `TOLERANCE` of the dense FLOPs below the target; otherwise the ladder was too coarse for it."""


@dataclass(frozen=True)
class Reach:
    """The least and the most FLOPs that a method can leave."""

    least: Cost
    most: Cost


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


def reach(sites: Sequence[Site], cost: CostModel) -> Reach:
    """What can be reached with every site dense and every site at its smallest."""
    last = Ladders(sites).last
    both = cost(np.stack([last, np.zeros_like(last)]))
    least, most = (Cost(*(int(column[row]) for column in both)) for row in (0, 1))
    return Reach(least, most)


def check_reachable(
    target: Target,
    sites: Sequence[Site],
    cost: CostModel,
    *,
    method: str,
    network: str,
    skipped: Mapping[str, str] | None = None,
) -> int:
    """The target in FLOPs; UserError, naming the range, if no allocation can meet it.

    Args:
        skipped: layers left dense with the reasons; the first ones are named where that may explain the range.
    """
    limit = target.flops(cost.dense.flops)
    span = reach(sites, cost) if sites else Reach(cost.dense, cost.dense)
    if not span.least.flops <= limit <= span.most.flops:
        least, most, whole = span.least.flops, span.most.flops, cost.dense.flops
        raise UserError(
            f"target {target.asked!r} ({flops_text(limit)} FLOPs) is out of reach: {method} on {network} can leave "
            f"{flops_text(least)} to {flops_text(most)} FLOPs, kept {least / whole:.4f} to {most / whole:.4g}"
            + _dense_layers(skipped or {})
        )
    return limit


def _dense_layers(skipped: Mapping[str, str]) -> str:
    """The first layers that stay dense, for a range that is smaller than expected; outputs always stay."""
    telling = [f"{layer} ({reason})" for layer, reason in skipped.items() if "output of the network" not in reason]
    more = f" and {len(telling) - 2} more" if len(telling) > 2 else ""
    return f"; left dense: {', '.join(telling[:2])}{more}" if telling else ""


def uniform_shape(n_sites: int) -> Shape:
    """The same strength for every site (ACRA, uniform)."""
    return lambda scales: np.repeat(scales[:, None], n_sites, axis=1)


def project(shape: Shape, sites: Sequence[Site], cost: CostModel, limit: int) -> Solution:
    """The gentlest allocation along `shape` with at most `limit` FLOPs, filled up to it.

    Args:
        limit: FLOPs, reachable (`check_reachable`).
    """
    ladders = Ladders(sites)
    low, high = 0.0, 1.0
    levels = ladders.last.copy()  # always within reach
    for _ in range(_ROUNDS):
        scales = np.linspace(low, high, _PROBES)
        tried = ladders.levels(np.clip(shape(scales), 0.0, 1.0))
        fits = np.flatnonzero(cost(tried).flops <= limit)
        if not len(fits):  # only in the first round: the shape's own end is not enough
            break
        first = int(fits[0])
        levels, high = tried[first], scales[first]
        if first == 0:
            break
        low = scales[first - 1]
    wanted = np.clip(shape(np.array([high])), 0.0, 1.0)[0]
    levels = _fill(levels, wanted, ladders, cost, limit)
    final = Cost(*(int(column[0]) for column in cost(levels[None])))
    return Solution(levels, final, _within(final.flops, cost, limit))


def _within(flops: int, cost: CostModel, limit: int) -> bool:
    return limit - TOLERANCE * cost.dense.flops <= flops <= limit


def _fill(levels: Levels, wanted: Floats, ladders: Ladders, cost: CostModel, limit: int) -> Levels:
    """Use up what rounding left: relax sites by single steps, then exchange steps between two sites."""
    levels = _relax(levels, wanted, ladders, cost, limit)
    for _ in range(2 * len(levels)):
        if _within(int(cost(levels[None]).flops[0]), cost, limit):
            break
        better = _exchange(levels, wanted, ladders, cost, limit)
        if better is None:
            break
        levels = _relax(better, wanted, ladders, cost, limit)  # an exchange may have made room for a step
    return levels


def _relax(levels: Levels, wanted: Floats, ladders: Ladders, cost: CostModel, limit: int) -> Levels:
    """One step towards dense at a time, first where a site is furthest above the strength wanted of it."""
    while True:
        movable = np.flatnonzero(levels > 0)
        if not len(movable):
            return levels
        tried = np.repeat(levels[None], len(movable), axis=0)
        tried[np.arange(len(movable)), movable] -= 1
        fits = cost(tried).flops <= limit
        if not fits.any():
            return levels
        excess = (ladders.strength_at(levels) - wanted)[movable]
        excess[~fits] = -np.inf
        levels = tried[int(np.argmax(excess))]


def _exchange(levels: Levels, wanted: Floats, ladders: Ladders, cost: CostModel, limit: int) -> Levels | None:
    """Of the changes that meet the limit the one nearest to `wanted`; else what comes closest; None without a gain.

    Single steps of two sites are tried first, then as many steps at once as `_ROWS` allocations allow, then every
    allocation near this one if the sites are few.
    """
    present, sites = int(cost(levels[None]).flops[0]), len(levels)
    widest = max(1, min(int((_ROWS / sites**2) ** 0.5), int(ladders.last.max())))
    box = int((_ROWS ** (1 / sites) - 1) / 2)
    for neighbours, steps in ((_pairs, 1), (_pairs, widest), (_box, box)):
        tried = neighbours(levels, ladders.last, steps)
        if not len(tried):
            continue
        flops = cost(tried).flops
        flops[flops > limit] = -1
        near = np.flatnonzero(flops >= limit - TOLERANCE * cost.dense.flops)
        astray = np.abs(ladders.strength_at(tried[near]) - wanted).sum(1)
        best = int(near[np.argmin(astray)]) if len(near) else int(np.argmax(flops))
        if flops[best] > present:
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

"""Projection of a shape onto a target: the least scale whose allocation keeps to the budget, then a fill.

    minimise s in [0, 1]   subject to   figureₘ(levels(shape(s))) ≤ limitₘ for every measure m

Costs fall monotonically in the scale s (ACRA), so a bisection on the cost model finds s in O(log 1/ε) evaluations, and
none of them touches data. Ladders are discrete, so the allocation at s lies below the limits; the fill relaxes single
sites and exchanges steps between two sites until the figures come within the tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from methods.base import Cost, CostModel, Levels, Site
from models.errors import UserError
from search.allocation.budget import Budget, LatencyModel
from search.allocation.targets import TOLERANCE, Target, measure_of

Floats = npt.NDArray[np.float64]
MISSED = {
    True: "the settings are too coarse to meet it; this is the closest below it",
    False: "by the curves measured, coming nearer to it costs more than it brings",
}
"""Why a target is not met within the tolerance, by `too_coarse`."""
Shape = Callable[[Floats], Floats]
"""Scales (n,) in [0, 1] -> strengths (n, n_sites), non-decreasing in the scale; 0 is dense, 1 the smallest setting."""

_PROBES = 33  # scales that one round of the bisection tries at once; the interval shrinks 32-fold per round
_ROUNDS = 5  # 32^-5 = 3e-8, finer than any ladder
_MAX_TRIED = 20_000  # allocations that one exchange tries at once: some megabytes of levels
_EPSILON = 1e-9  # two strengths that differ by less are the same one, computed in different ways


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
        for number, site in enumerate(sites):
            self.strengths[number, : len(site.strengths)] = site.strengths

    def levels_at(self, strengths: Floats) -> Levels:
        """Per site the last setting that is at most so strong, (n, n_sites) -> (n, n_sites)."""
        levels = [
            np.searchsorted(ladder, strengths[:, site] + _EPSILON, side="right") - 1
            for site, ladder in enumerate(self.strengths)
        ]
        return np.maximum(np.stack(levels, axis=1), 0).astype(np.intp)  # a constraint may leave no setting so gentle

    def strengths_at(self, levels: Levels) -> Floats:
        return self.strengths[np.arange(len(self.last)), levels]


def extreme_levels(sites: Sequence[Site]) -> Levels:
    """The hardest and the gentlest allocation, (2, n_sites)."""
    last = Ladders(sites).last
    return np.stack([last, np.zeros_like(last)])


def check_reachable(
    target: Target,
    sites: Sequence[Site],
    cost: CostModel,
    latency: Mapping[str, LatencyModel] | None = None,
    *,
    method: str,
    network: str,
    skipped: Mapping[str, str] | None = None,
) -> Budget:
    """The budget that a target stands for on this network; UserError with the range if no allocation can meet it.

    Args:
        latency: measure -> its predictions, for a target that asks for latency.
        skipped: layers left dense with the reasons; the first ones are named where that may explain the range.
    """
    free = Budget(dict.fromkeys(target.measures, 0), cost, latency or {})
    limits = {term.measure: term.limit_for(free.dense_figure(term.measure)) for term in target.terms}
    budget = Budget(limits, cost, free.latency)
    ranges = reachable_ranges(budget, sites)
    for term, limit, (smallest, largest) in zip(target.terms, limits.values(), ranges, strict=True):
        measure, dense = measure_of(term.measure), budget.dense_figure(term.measure)
        loose = limit > largest and (len(target.terms) == 1 or _never_binds(budget, sites))
        if limit < smallest or loose:
            left = (
                f"{method} on {network} can leave {measure.number(smallest)} to {measure.figure_text(largest)}, "
                f"kept {smallest / dense:.4f} to {largest / dense:.4g}"
            )
            if smallest > largest:  # of latency: many thin layers may take longer than one
                left = f"{method} at its hardest leaves {measure.figure_text(smallest)} of {network}, which is no less"
            asked = f"target {term.asked!r} ({measure.figure_text(limit)})"
            raise UserError(f"{asked} is out of reach: {left}{_dense_layers(skipped or {})}")
    return budget


def reachable_ranges(budget: Budget, sites: Sequence[Site]) -> list[tuple[int, int]]:
    """For each measure of the budget its figure under the hardest and under the gentlest allocation."""
    if not sites:
        return [(budget.dense_figure(measure), budget.dense_figure(measure)) for measure in budget.limits]
    return [(int(smallest), int(largest)) for smallest, largest in budget.figures_of(extreme_levels(sites))]


def _never_binds(budget: Budget, sites: Sequence[Site]) -> bool:
    """Whether the gentlest allocation stays below all limits, strictly, so that the target asks for nothing."""
    return bool(sites) and bool((budget.relative_excess(extreme_levels(sites))[:, 1] < 0).all())


def _dense_layers(skipped: Mapping[str, str]) -> str:
    """The first layers that stay dense, which may explain a small range; outputs stay dense in every network."""
    layers = [f"{layer} ({reason})" for layer, reason in skipped.items() if "output of the network" not in reason]
    more = f" and {len(layers) - 2} more" if len(layers) > 2 else ""
    return f"; left dense: {', '.join(layers[:2])}{more}" if layers else ""


def uniform_shape(n_sites: int) -> Shape:
    """The same strength for every site (ACRA, uniform)."""
    return lambda scales: np.repeat(scales[:, None], n_sites, axis=1)


def project_shape(shape: Shape, sites: Sequence[Site], budget: Budget) -> Solution:
    """The gentlest allocation along `shape` within the budget, filled up to it; the budget is reachable."""
    ladders = Ladders(sites)
    levels, scale = find_scale(shape, ladders, budget)
    wanted = np.clip(shape(np.array([scale])), 0.0, 1.0)[0]
    levels = _fill_budget(levels, wanted, ladders, budget)
    return Solution(levels, budget.cost_of(levels), budget.is_met(levels))


def find_scale(shape: Shape, ladders: Ladders, budget: Budget) -> tuple[Levels, float]:
    """The gentlest levels along `shape` within the budget, and the least scale that gives them.

    If even the scale 1 exceeds the budget, as for a shape that ends below the last settings, every site takes its last
    setting.
    """
    levels, low, high = ladders.last, 0.0, 1.0
    for _ in range(_ROUNDS):
        scales = np.linspace(low, high, _PROBES)
        tried = ladders.levels_at(np.clip(shape(scales), 0.0, 1.0))
        fits = np.flatnonzero(budget.largest_excess(tried) <= 0)
        if not len(fits):  # only in the first round: later ones end at a scale that fits
            break
        first = int(fits[0])
        levels, high = tried[first], float(scales[first])
        if first == 0:
            break
        low = float(scales[first - 1])  # exceeds the budget, so the next round looks above it
    return levels, high


def too_coarse(sites: Sequence[Site], budget: Budget) -> bool:
    """Whether the settings themselves keep an allocation from coming within the tolerance of the budget."""
    return not project_shape(uniform_shape(len(sites)), sites, budget).met


def _fill_budget(levels: Levels, wanted: Floats, ladders: Ladders, budget: Budget) -> Levels:
    """Raise the figures to the limits: relax sites by single steps, then exchange steps between two sites."""
    levels = _relax_sites(levels, wanted, ladders, budget)
    for _ in range(2 * len(levels)):
        if budget.is_met(levels):
            break
        exchanged = _exchange_steps(levels, wanted, ladders, budget)
        if exchanged is None:
            break
        levels = _relax_sites(exchanged, wanted, ladders, budget)  # the exchange may have made room for a step
    return levels


def _relax_sites(levels: Levels, wanted: Floats, ladders: Ladders, budget: Budget) -> Levels:
    """One step towards dense at a time, first at the site that lies furthest above its wanted strength."""
    while True:
        movable = np.flatnonzero(levels > 0)
        if not len(movable):
            return levels
        tried = np.repeat(levels[None], len(movable), axis=0)
        tried[np.arange(len(movable)), movable] -= 1
        fits = budget.largest_excess(tried) <= 0
        if not fits.any():
            return levels
        excess = (ladders.strengths_at(levels) - wanted)[movable]
        excess[~fits] = -np.inf
        levels = tried[int(np.argmax(excess))]


def _exchange_steps(levels: Levels, wanted: Floats, ladders: Ladders, budget: Budget) -> Levels | None:
    """A neighbour of `levels` whose figures come closer to the limits and keep to them; None if there is none.

    Of the neighbours within the tolerance it is the one nearest to the wanted strengths, otherwise the one closest to
    the limits. Neighbours are first exchanges of one step between two sites, then of several steps, then, where sites
    are few, all allocations near this one.
    """
    present, sites = float(budget.largest_excess(levels[None])[0]), len(levels)
    # n sites have n² · steps² exchanges, and (2 · steps + 1)^n allocations near them.
    most_steps = max(1, min(int((_MAX_TRIED / sites**2) ** 0.5), int(ladders.last.max())))
    box_steps = int((_MAX_TRIED ** (1 / sites) - 1) / 2)
    for neighbours, steps in ((_pair_exchanges, 1), (_pair_exchanges, most_steps), (_nearby_allocations, box_steps)):
        tried = neighbours(levels, ladders.last, steps)
        if not len(tried):
            continue
        excess = budget.largest_excess(tried)
        excess[excess > 0] = -np.inf
        near = np.flatnonzero(excess >= -TOLERANCE)
        distance = np.abs(ladders.strengths_at(tried[near]) - wanted).sum(1)
        best = int(near[np.argmin(distance)]) if len(near) else int(np.argmax(excess))
        if excess[best] > present:
            return tried[best]
    return None


def _pair_exchanges(levels: Levels, last: Levels, max_steps: int) -> Levels:
    """Every allocation with one site up to `max_steps` gentler and another up to `max_steps` harder."""
    sites, steps = np.arange(len(levels)), np.arange(1, max_steps + 1)
    up, down, a, b = (axis.ravel() for axis in np.meshgrid(sites, sites, steps, steps, indexing="ij"))
    possible = (up != down) & (a <= levels[up]) & (b <= (last - levels)[down])
    up, down, a, b = up[possible], down[possible], a[possible], b[possible]
    exchanges = np.arange(len(up))
    tried = np.repeat(levels[None], len(up), axis=0)
    tried[exchanges, up] -= a
    tried[exchanges, down] += b
    return tried


def _nearby_allocations(levels: Levels, last: Levels, max_steps: int) -> Levels:
    """Every allocation with no site more than `max_steps` away."""
    if max_steps < 1:
        return levels[None][:0]
    steps = [
        np.arange(max(level - max_steps, 0), min(level + max_steps, end) + 1)
        for level, end in zip(levels, last, strict=True)
    ]
    return np.stack([axis.ravel() for axis in np.meshgrid(*steps, indexing="ij")], axis=1)

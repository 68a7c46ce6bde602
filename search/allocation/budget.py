"""A target on a network: by how much an allocation exceeds its limits, in one number.

    excess(l) = maxₘ (figureₘ(l) − limitₘ) / denseₘ

Every figure falls as a site is compressed harder, so the excess falls too: bisection on a common scale works whichever
measure binds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from methods.base import Cost, CostModel, Levels
from search.allocation.targets import TOLERANCE, is_latency, measure_of

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class LatencyModel(Protocol):
    """Predicted nanoseconds of one batch, for any allocation."""

    @property
    def dense_nanoseconds(self) -> int:
        """Of the dense network."""

    def __call__(self, levels: Levels) -> Ints:
        """(n_allocations, n_sites) -> (n_allocations,)."""


@dataclass(frozen=True, eq=False)
class Budget:
    """Limits on what a network may cost, with the models that tell what an allocation costs."""

    limits: Mapping[str, int]
    """Measure -> the largest figure allowed; latency in nanoseconds."""
    cost: CostModel
    latency: Mapping[str, LatencyModel] = field(default_factory=dict)
    """Measure -> its predictions, for every latency of `limits`."""

    def dense_figure(self, measure: str) -> int:
        """The dense network's figure."""
        if is_latency(measure):
            return self.latency[measure].dense_nanoseconds
        return int(getattr(self.cost.dense, measure))

    def figures_of(self, levels: Levels) -> Ints:
        """(n_allocations, n_sites) -> (n_measures, n_allocations), in the order of `limits`."""
        figures = []
        costs = self.cost(levels) if not all(map(is_latency, self.limits)) else None
        for measure in self.limits:
            if is_latency(measure):
                figures.append(self.latency[measure](levels))
            else:
                figures.append(getattr(costs, measure))
        return np.stack(figures)

    def relative_excess(self, levels: Levels) -> Floats:
        """(figure − limit) / dense of every measure, (n_measures, n_allocations)."""
        limits = np.array([*self.limits.values()], dtype=np.int64)
        dense = np.array([max(self.dense_figure(measure), 1) for measure in self.limits], dtype=np.float64)
        excess: Floats = (self.figures_of(levels) - limits[:, None]) / dense[:, None]
        return excess

    def largest_excess(self, levels: Levels) -> Floats:
        """The largest excess over the measures, (n_allocations,): at most 0 where all limits are kept."""
        largest: Floats = self.relative_excess(levels).max(0)
        return largest

    def is_met(self, levels: Levels) -> bool:
        """Whether one allocation, (n_sites,), keeps all limits and comes within the tolerance of one."""
        return bool(-TOLERANCE <= self.largest_excess(levels[None])[0] <= 0)

    def binding_measures(self, levels: Levels) -> list[str]:
        """The measures that keep an allocation from being gentler: those nearest to their limits."""
        shares = self.relative_excess(levels[None])[:, 0]
        return [name for name, share in zip(self.limits, shares, strict=True) if share >= shares.max() - TOLERANCE]

    def cost_of(self, levels: Levels) -> Cost:
        """What one allocation, (n_sites,), costs."""
        return Cost(*(int(column[0]) for column in self.cost(levels[None])))

    def limits_text(self) -> str:
        """`304K FLOPs and 5 ms`."""
        return " and ".join(measure_of(name).figure_text(limit) for name, limit in self.limits.items())

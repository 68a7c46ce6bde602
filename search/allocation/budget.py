"""A target on a network: how far any allocation is from what it may cost, in one number.

The number is the largest over the target's measures of (figure − limit) / dense. Every measure falls as a site is
compressed harder, so it does too: bisection on a common scale works whichever measure binds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from methods.base import Cost, CostModel, Levels
from search.allocation.targets import MEASURES, TOLERANCE

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
LATENCY = "latency"


class LatencyModel(Protocol):
    """Predicted nanoseconds of one batch, for any allocation."""

    @property
    def dense(self) -> int:
        """Of the network as it came."""

    def __call__(self, levels: Levels) -> Ints:
        """(n_allocations, n_sites) -> (n_allocations,)."""


@dataclass(frozen=True, eq=False)
class Budget:
    """What a network may cost at most."""

    limits: Mapping[str, int]
    """Measure -> figure; latency in nanoseconds."""
    cost: CostModel
    latency: LatencyModel | None = None

    def dense(self, measure: str) -> int:
        """The dense network's figure."""
        if measure == LATENCY:
            assert self.latency is not None
            return self.latency.dense
        return int(getattr(self.cost.dense, measure))

    def figures(self, levels: Levels) -> Ints:
        """(n_allocations, n_sites) -> (n_measures, n_allocations), in the order of `limits`."""
        rows = []
        costs = self.cost(levels) if set(self.limits) != {LATENCY} else None
        for measure in self.limits:
            if measure == LATENCY:
                assert self.latency is not None
                rows.append(self.latency(levels))
            else:
                rows.append(getattr(costs, measure))
        return np.stack(rows)

    def shares(self, levels: Levels) -> Floats:
        """(figure − limit) / dense of every measure, (n_measures, n_allocations)."""
        limits = np.array([*self.limits.values()], dtype=np.int64)
        dense = np.array([max(self.dense(measure), 1) for measure in self.limits], dtype=np.float64)
        over: Floats = (self.figures(levels) - limits[:, None]) / dense[:, None]
        return over

    def excess(self, levels: Levels) -> Floats:
        """The largest of these, (n_allocations,): at most 0 where all limits are kept."""
        most: Floats = self.shares(levels).max(0)
        return most

    def met(self, levels: Levels) -> bool:
        """Whether one allocation, (n_sites,), keeps all limits and comes within the tolerance of one."""
        return within(float(self.excess(levels[None])[0]))

    def binding(self, levels: Levels) -> list[str]:
        """The measures that keep the allocation from being larger: those nearest to their limits."""
        over = self.shares(levels[None])[:, 0]
        return [name for name, each in zip(self.limits, over, strict=True) if each >= over.max() - TOLERANCE]

    def cost_of(self, levels: Levels) -> Cost:
        """What one allocation, (n_sites,), costs."""
        return Cost(*(int(column[0]) for column in self.cost(levels[None])))

    def words(self) -> str:
        """`304K FLOPs and 5 ms`."""
        return " and ".join(MEASURES[name].text(limit) for name, limit in self.limits.items())


def within(excess: float) -> bool:
    """Whether a distance from the limit meets the target."""
    return -TOLERANCE <= excess <= 0

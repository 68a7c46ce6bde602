"""The knapsack against a solver of integer programs, on problems with more allocations than can be tried."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp
from small_problems import Chain, Separable, rising

from search.allocation.budget import Budget
from search.allocation.knapsack import separable_savings, solve_knapsack
from search.allocation.minimise import total_damage


def least_damage(damage: list[np.ndarray], costs: list[list[int]], limit: int) -> float:
    """One binary variable for every setting of every site, one setting a site."""
    flat, flops = np.concatenate(damage), np.concatenate(costs)
    site = np.repeat(np.arange(len(damage)), [len(site_damage) for site_damage in damage])
    one_each = (site == np.arange(len(damage))[:, None]).astype(float)
    constraints = [LinearConstraint(one_each, 1, 1), LinearConstraint(flops[None], 0, limit)]
    found = milp(flat, integrality=np.ones(len(flat)), bounds=Bounds(0, 1), constraints=constraints,
                 options={"mip_rel_gap": 0})  # fmt: skip
    return float(found.fun)


@pytest.mark.parametrize("seed", range(10))
def test_nothing_within_the_limit_does_less_damage(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(2, 12, 25).tolist()
    costs = [np.sort(rng.integers(0, 1000, n))[::-1].tolist() for n in counts]
    damage, cost = [rising(rng, n) for n in counts], Separable(costs, rest=0)
    grids = [np.arange(n, dtype=np.intp) for n in counts]
    least = sum(site_damage[-1] for site_damage in costs)
    for share in (0.1, 0.5, 0.9):
        limit = int(least + share * (cost.dense.flops - least))
        budget = Budget({"flops": limit}, cost)
        table = separable_savings(grids, budget)
        assert table is not None
        levels = solve_knapsack(damage, grids, table, budget)
        assert sum(row[level] for row, level in zip(costs, levels, strict=True)) <= limit
        assert total_damage(damage, levels) == pytest.approx(least_damage(damage, costs, limit), rel=1e-6)


def test_sites_that_feed_each_other_are_not_separable() -> None:
    grids = [np.arange(4, dtype=np.intp)] * 3
    cost = Chain([4, 4, 4], [9, 9, 9, 9])
    assert separable_savings(grids, Budget({"flops": cost.dense.flops // 2}, cost)) is None

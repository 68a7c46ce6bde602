"""How long the knapsack of separable costs takes by `search.allocation.knapsack`, against `scipy.optimize.milp`.

    python benchmarks/knapsack.py

Curves of damage are made up, three sets of them; three targets for each. Printed are milliseconds and by how much the
damage of `milp` differs. `results/README.md` has figures.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from methods.base import Levels, Site
from methods.registry import create
from models.networks.catalog import build_network
from search.allocation.allocate import extreme_levels
from search.allocation.budget import Budget
from search.allocation.knapsack import Floats, Ints, separable_savings, solve_knapsack
from search.allocation.minimise import total_damage

NETWORKS = ("resnet20", "resnet56", "mobilenet_v2")
METHODS = ("kse", "kernel-clustering")
TARGETS = (0.7, 0.5, 0.3)  # of the way from the smallest allocation to the dense network


def solve_milp(damage: Sequence[Floats], table: Sequence[Ints], budget: Budget) -> Levels:
    """One binary variable for every setting of every site, one setting a site."""
    dense = np.zeros((1, len(damage)), dtype=np.intp)
    needed = int(budget.figures_of(dense)[0, 0]) - next(iter(budget.limits.values()))
    sizes, flat = [len(row) for row in damage], np.concatenate(damage)
    site = np.repeat(np.arange(len(damage)), sizes)
    one_each = csr_array((np.ones(len(flat)), (site, np.arange(len(flat)))))
    saved = np.concatenate(table) / max(needed, 1)
    constraints = [LinearConstraint(one_each, 1, 1), LinearConstraint(saved[None], float(needed > 0), np.inf)]
    found = milp(flat / flat.max(), integrality=np.ones(len(flat)), bounds=Bounds(0, 1), constraints=constraints,
                 options={"mip_rel_gap": 0})  # fmt: skip
    return np.array([int(np.argmax(part)) for part in np.split(found.x, np.cumsum(sizes)[:-1])], dtype=np.intp)


def made_up(sites: Sequence[Site], seed: int) -> list[Floats]:
    """Damage of every setting: a power of its strength, with noise that never lets it fall."""
    rng = np.random.default_rng(seed)
    rows = []
    for site in sites:
        strengths = np.array(site.strengths)
        noise = rng.normal(0, 0.002, len(strengths)) * (strengths > 0)
        rows.append(np.maximum.accumulate(rng.lognormal(-3, 1.2) * strengths ** rng.uniform(1, 4) + noise))
    return rows


def main() -> None:
    """Print both times, and the damage and the limits kept."""
    for name in NETWORKS:
        network = build_network(name, classes=10).eval()
        for method in METHODS:
            compressor = create(method, network, torch.randn(2, 3, 32, 32))
            sites, cost = compressor.sites, compressor.cost
            grids = [np.arange(len(site.settings), dtype=np.intp) for site in sites]
            smallest, dense = int(cost(extreme_levels(sites)).flops[0]), cost.dense.flops
            times, differences, broken = np.zeros((0, 2)), [], 0
            for damage in (made_up(sites, seed) for seed in range(3)):
                for kept in TARGETS:
                    budget = Budget({"flops": int(smallest + kept * (dense - smallest))}, cost)
                    table = separable_savings(grids, budget)
                    assert table is not None
                    start = time.perf_counter()
                    ours = solve_knapsack(damage, grids, table, budget)
                    middle = time.perf_counter()
                    theirs = solve_milp(damage, table, budget)
                    times = np.vstack([times, 1e3 * np.diff([start, middle, time.perf_counter()])])
                    differences.append(total_damage(damage, theirs) / total_damage(damage, ours) - 1)
                    broken += budget.largest_excess(theirs[None])[0] > 0
            medians, worst = np.median(times, 0), times.max(0)
            print(f"{name} {method}, {len(sites)} sites: {medians[0]:.0f} ms (worst {worst[0]:.0f}), milp "
                  f"{medians[1]:.0f} ms (worst {worst[1]:.0f}), its damage {min(differences):+.1%} to "
                  f"{max(differences):+.1%}, {broken} of {len(times)} above their limit", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

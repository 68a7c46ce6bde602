"""The multiple-choice knapsack behind allocations whose sites do not influence each other's cost.

    minimise   Σᵢ damageᵢ(lᵢ)   subject to   Σᵢ savedᵢ(lᵢ) ≥ needed

by dynamic programming over undominated states, thinned by Lagrangian bounds. `scipy.optimize.milp` does no less damage,
takes 1.5 to 8 times as long, keeps the limit only up to its solver's tolerance and writes lines of that solver to the
terminal: `benchmarks/knapsack.py`, figures in `results/README.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from methods.base import Levels
from search.allocation.budget import Budget

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

STATES = 50_000  # partial allocations that are kept; beyond so many the solution is near-exact


def separable_savings(grids: Sequence[Levels], budget: Budget) -> list[Ints] | None:
    """Per site what each setting of its grid takes off the one measure, if these add up; None if sites interact."""
    if len(budget.limits) > 1:
        return None
    n = len(grids)

    def saved_by(levels: Levels) -> Ints:
        figures = budget.figures(np.concatenate([np.zeros((1, n), dtype=np.intp), levels]))[0]
        saved: Ints = figures[0] - figures[1:]
        return saved

    last = np.array([grid[-1] for grid in grids], dtype=np.intp)
    if saved_by(last[None])[0] != saved_by(np.diag(last)).sum():
        return None
    table = []
    for site, grid in enumerate(grids):
        tried = np.zeros((len(grid), n), dtype=np.intp)
        tried[:, site] = grid
        table.append(saved_by(tried))
    rng = np.random.default_rng(0)
    picks = np.stack([rng.integers(0, len(grid), 32) for grid in grids], axis=1)  # (32, n_sites)
    mixed = np.stack([grid[picks[:, site]] for site, grid in enumerate(grids)], axis=1)
    saved = sum(row[picks[:, site]] for site, row in enumerate(table))
    return table if (saved_by(mixed) == saved).all() else None


@dataclass(frozen=True)
class States:
    """Undominated choices for the sites so far: what they save, what they cost in damage, and how they were made."""

    saved: Ints
    damage: Floats
    parent: Levels  # row in the states before
    choice: Levels  # column of the site's grid

    def take(self, rows: Levels) -> States:
        return States(self.saved[rows], self.damage[rows], self.parent[rows], self.choice[rows])


def solve_knapsack(damage: Sequence[Floats], grids: Sequence[Levels], table: Sequence[Ints], budget: Budget) -> Levels:
    """Least damage that saves enough; exact on the grids as long as `STATES` suffice."""
    gentlest = int(budget.figures(np.zeros((1, len(grids)), dtype=np.intp))[0, 0])
    needed = gentlest - next(iter(budget.limits.values()))
    rows = [each[grid] for each, grid in zip(damage, grids, strict=True)]
    multiplier, incumbent = _bound_by_dual(rows, table, needed)
    reduced = np.array([(row - multiplier * saved).min() for row, saved in zip(rows, table, strict=True)])
    rest = np.append(np.cumsum(reduced[::-1])[::-1], 0.0)  # bound on the sites still to come
    states = States(np.zeros(1, np.int64), np.zeros(1), np.zeros(1, np.intp), np.zeros(1, np.intp))
    history = []
    for site, (row, saved) in enumerate(zip(rows, table, strict=True)):
        states = _drop_dominated(_extend_states(states, row, saved, needed))
        bound = states.damage + multiplier * (needed - states.saved) + rest[site + 1]
        states = states.take(np.flatnonzero(bound <= incumbent * (1 + 1e-9) + 1e-12))
        history.append(states)
    levels = np.zeros(len(grids), dtype=np.intp)
    row_now = int(np.argmin(np.where(states.saved >= needed, states.damage, np.inf)))
    for site in range(len(grids) - 1, -1, -1):
        levels[site] = grids[site][history[site].choice[row_now]]
        row_now = int(history[site].parent[row_now])
    return levels


def _bound_by_dual(rows: Sequence[Floats], table: Sequence[Ints], needed: int) -> tuple[float, float]:
    """The multiplier at which the relaxed optimum turns feasible, and the damage of that feasible allocation."""
    low, high = -60.0, 60.0  # of log λ
    incumbent = float(sum(row[-1] for row in rows))
    for _ in range(80):
        middle = (low + high) / 2
        picks = [int(np.argmin(row - np.exp(middle) * saved)) for row, saved in zip(rows, table, strict=True)]
        if sum(int(saved[pick]) for saved, pick in zip(table, picks, strict=True)) < needed:
            low = middle
            continue
        high = middle
        incumbent = min(incumbent, float(sum(row[pick] for row, pick in zip(rows, picks, strict=True))))
    return float(np.exp(high)), incumbent


def _extend_states(states: States, row: Floats, saved: Ints, needed: int) -> States:
    """Every state with every setting of the next site; savings beyond need are all alike."""
    n, m = len(states.saved), len(row)
    return States(
        np.minimum(states.saved[:, None] + saved, needed).ravel(),
        (states.damage[:, None] + row).ravel(),
        np.repeat(np.arange(n), m),
        np.tile(np.arange(m), n),
    )


def _drop_dominated(states: States) -> States:
    """Without those that save no more than another and do no less damage; thinned evenly beyond `STATES`."""
    order = np.lexsort((states.damage, -states.saved))  # most saved first
    damage = states.damage[order]
    better = np.concatenate([[True], damage[1:] < np.minimum.accumulate(damage)[:-1]])
    kept = order[better]
    if len(kept) > STATES:
        kept = kept[np.unique(np.linspace(0, len(kept) - 1, STATES).astype(np.intp))]
    return states.take(kept)

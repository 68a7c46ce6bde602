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

STATES = 50_000  # partial allocations that are kept; the solution is exact unless more are needed


def separable_savings(grids: Sequence[Levels], budget: Budget) -> list[Ints] | None:
    """Per site the figure that each setting of its grid saves; None if savings do not add up, or for several measures.

    Tried on the cost model: all sites at their last setting, then 32 random allocations.
    """
    if len(budget.limits) > 1:
        return None
    n = len(grids)

    def saved_by(levels: Levels) -> Ints:
        figures = budget.figures_of(np.concatenate([np.zeros((1, n), dtype=np.intp), levels]))[0]
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
    saved = sum(savings[picks[:, site]] for site, savings in enumerate(table))
    return table if (saved_by(mixed) == saved).all() else None


@dataclass(frozen=True)
class States:
    """Partial allocations of the first sites: their savings and damage, and the links from which they are read back."""

    saved: Ints
    damage: Floats
    parent: Levels  # index into the states of the sites before
    choice: Levels  # index into the grid of the last site

    def take_states(self, numbers: Levels) -> States:
        return States(self.saved[numbers], self.damage[numbers], self.parent[numbers], self.choice[numbers])


def solve_knapsack(damage: Sequence[Floats], grids: Sequence[Levels], table: Sequence[Ints], budget: Budget) -> Levels:
    """The allocation of least damage that saves enough; exact on the grids as long as `STATES` suffice.

    A state can be dropped if damage + λ·(needed − saved) + Σ over later sites of min(damage − λ·saved), a lower bound
    on every allocation that continues it, exceeds the damage of a known feasible allocation.
    """
    gentlest = int(budget.figures_of(np.zeros((1, len(grids)), dtype=np.intp))[0, 0])
    needed = gentlest - next(iter(budget.limits.values()))
    damages = [site_damage[grid] for site_damage, grid in zip(damage, grids, strict=True)]
    multiplier, incumbent = _bound_by_dual(damages, table, needed)
    reduced = np.array([(lost - multiplier * saved).min() for lost, saved in zip(damages, table, strict=True)])
    rest = np.append(np.cumsum(reduced[::-1])[::-1], 0.0)  # (n_sites + 1,) lower bound on the sites still to come
    states = States(np.zeros(1, np.int64), np.zeros(1), np.zeros(1, np.intp), np.zeros(1, np.intp))
    history = []
    for site, (lost, saved) in enumerate(zip(damages, table, strict=True)):
        states = _drop_dominated(_extend_states(states, lost, saved, needed))
        bound = states.damage + multiplier * (needed - states.saved) + rest[site + 1]
        states = states.take_states(np.flatnonzero(bound <= incumbent * (1 + 1e-9) + 1e-12))
        history.append(states)
    levels = np.zeros(len(grids), dtype=np.intp)
    state = int(np.argmin(np.where(states.saved >= needed, states.damage, np.inf)))
    for site in range(len(grids) - 1, -1, -1):  # from the last site back to the first
        levels[site] = grids[site][history[site].choice[state]]
        state = int(history[site].parent[state])
    return levels


def _bound_by_dual(damages: Sequence[Floats], table: Sequence[Ints], needed: int) -> tuple[float, float]:
    """The multiplier λ at which the relaxed optimum turns feasible, and the least damage of a feasible one."""
    low, high = -60.0, 60.0  # of log λ: e^±60 covers every ratio of damage to savings
    incumbent = float(sum(lost[-1] for lost in damages))
    for _ in range(80):  # 120 / 2^80 is below the spacing of floats
        middle = (low + high) / 2
        picks = [int(np.argmin(lost - np.exp(middle) * saved)) for lost, saved in zip(damages, table, strict=True)]
        if sum(int(saved[pick]) for saved, pick in zip(table, picks, strict=True)) < needed:
            low = middle
            continue
        high = middle
        incumbent = min(incumbent, float(sum(lost[pick] for lost, pick in zip(damages, picks, strict=True))))
    return float(np.exp(high)), incumbent


def _extend_states(states: States, lost: Floats, saved: Ints, needed: int) -> States:
    """Every state with every setting of the next site; savings beyond those needed count as those needed."""
    n, m = len(states.saved), len(lost)
    return States(
        np.minimum(states.saved[:, None] + saved, needed).ravel(),
        (states.damage[:, None] + lost).ravel(),
        np.repeat(np.arange(n), m),
        np.tile(np.arange(m), n),
    )


def _drop_dominated(states: States) -> States:
    """The Pareto front of savings and damage; thinned evenly beyond `STATES`."""
    order = np.lexsort((states.damage, -states.saved))  # most saved first, so that a state must do less damage to stay
    damage = states.damage[order]
    better = np.concatenate([[True], damage[1:] < np.minimum.accumulate(damage)[:-1]])
    front = order[better]
    if len(front) > STATES:
        front = front[np.unique(np.linspace(0, len(front) - 1, STATES).astype(np.intp))]
    return states.take_states(front)

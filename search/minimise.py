"""The allocation of least predicted damage within a FLOPs limit.

    minimise   Σᵢ damageᵢ(lᵢ)   subject to   FLOPs(l) ≤ limit

Where sites do not influence each other's FLOPs (tables of kernels) this is a multiple-choice knapsack and is solved
exactly. Widths do: a layer costs in × out. There the multiplier λ of damage + λ·FLOPs is found by bisection; for
each λ the sites take turns at their best response to the others, on the true cost model, until none moves. What
rounding left is then used up by exchanges between sites. All of it is arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from methods.base import CostModel, Levels
from search.targets import TOLERANCE

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

GRID = 64  # settings per site that the solvers look at; the last exchanges look at all
_BISECTIONS = 24  # of log λ: its range of e^40 shrinks below one in a million
_SWEEPS = 20  # turns of all sites; the descent ends after 3 to 5
_STATES = 50_000  # partial allocations that the knapsack keeps; beyond it is near-exact
SLACK = 0.02  # share of the damage that may be added for FLOPs within the tolerance of the limit
_MOVERS = 24  # sites on each side of an exchange


def minimise(damage: Sequence[Floats], cost: CostModel, limit: int, *, starts: Sequence[Levels] = ()) -> Levels:
    """Levels of least summed damage with at most `limit` FLOPs.

    Args:
        damage: per site, of each of its settings.
        limit: FLOPs, reachable.
        starts: allocations from which the descent begins as well; they need not be feasible.
    """
    grids = [np.unique(np.linspace(0, len(each) - 1, GRID).round().astype(np.intp)) for each in damage]
    table = _separable(grids, cost)
    last = np.array([len(each) - 1 for each in damage], dtype=np.intp)
    if table is not None:
        candidates = [_knapsack(damage, grids, table, cost, limit)]
    else:
        origins = [np.zeros_like(last), last, *starts]
        candidates = [_bisect(damage, grids, cost, limit, origin.copy()) for origin in origins]
    polished = [_polish(levels, damage, grids, cost, limit) for levels in candidates]
    best = min(polished, key=lambda levels: total(damage, levels))
    return tighten(best, damage, cost, limit)


def total(damage: Sequence[Floats], levels: Levels) -> float:
    """Σᵢ damageᵢ(lᵢ)."""
    return float(sum(each[level] for each, level in zip(damage, levels, strict=True)))


def _flops(cost: CostModel, levels: Levels) -> int:
    return int(cost(levels[None]).flops[0])


# --- coupled costs: bisection on the multiplier, best responses on the true cost model ---


def _bisect(damage: Sequence[Floats], grids: Sequence[Levels], cost: CostModel, limit: int, levels: Levels) -> Levels:
    """The best feasible allocation met while λ closes in on the limit; every λ starts where the last one ended."""
    scale = max(total(damage, _ends(damage)), 1e-12) / cost.dense.flops
    low, high = np.log(scale) - 20, np.log(scale) + 20
    best, value = _ends(damage), np.inf
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        levels = _respond(damage, grids, cost, float(np.exp(middle)), levels)
        if _flops(cost, levels) > limit:
            low = middle
            continue
        high = middle
        if total(damage, levels) < value:
            best, value = levels, total(damage, levels)
    return best


def _ends(damage: Sequence[Floats]) -> Levels:
    return np.array([len(each) - 1 for each in damage], dtype=np.intp)


def _respond(
    damage: Sequence[Floats], grids: Sequence[Levels], cost: CostModel, multiplier: float, levels: Levels
) -> Levels:
    """Every site in turn takes its best setting given the others', until none moves."""
    levels = levels.copy()
    for _ in range(_SWEEPS):
        before = levels.copy()
        for site, grid in enumerate(grids):
            tried = np.repeat(levels[None], len(grid), axis=0)
            tried[:, site] = grid
            levels[site] = grid[int(np.argmin(damage[site][grid] + multiplier * cost(tried).flops))]
        if (levels == before).all():
            break
    return levels


# --- separable costs: the multiple-choice knapsack, by dynamic programming within Lagrangian bounds ---


def _separable(grids: Sequence[Levels], cost: CostModel) -> list[Ints] | None:
    """Per site the FLOPs that each setting of its grid takes off, if these add up; None if sites interact."""
    n, dense = len(grids), cost.dense.flops
    ends = np.array([grid[-1] for grid in grids], dtype=np.intp)
    if dense - _flops(cost, ends) != sum(dense - cost(np.diag(ends)).flops):
        return None
    table = []
    for site, grid in enumerate(grids):
        tried = np.zeros((len(grid), n), dtype=np.intp)
        tried[:, site] = grid
        table.append(dense - cost(tried).flops)
    rng = np.random.default_rng(0)
    picks = np.stack([rng.integers(0, len(grid), 32) for grid in grids], axis=1)  # (32, n_sites)
    mixed = np.stack([grid[picks[:, site]] for site, grid in enumerate(grids)], axis=1)
    saved = sum(row[picks[:, site]] for site, row in enumerate(table))
    return table if (dense - cost(mixed).flops == saved).all() else None


@dataclass(frozen=True)
class _States:
    """Undominated choices for the sites so far: what they save, what they cost in damage, and how they were made."""

    saved: Ints
    damage: Floats
    parent: Levels  # row in the states before
    choice: Levels  # column of the site's grid

    def take(self, rows: Levels) -> _States:
        return _States(self.saved[rows], self.damage[rows], self.parent[rows], self.choice[rows])


def _knapsack(
    damage: Sequence[Floats], grids: Sequence[Levels], table: Sequence[Ints], cost: CostModel, limit: int
) -> Levels:
    """Least damage that saves enough; exact on the grids as long as `_STATES` suffice."""
    needed = cost.dense.flops - limit
    rows = [each[grid] for each, grid in zip(damage, grids, strict=True)]
    multiplier, incumbent = _dual(rows, table, needed)
    reduced = np.array([(row - multiplier * saved).min() for row, saved in zip(rows, table, strict=True)])
    rest = np.append(np.cumsum(reduced[::-1])[::-1], 0.0)  # bound on the sites still to come
    states = _States(np.zeros(1, np.int64), np.zeros(1), np.zeros(1, np.intp), np.zeros(1, np.intp))
    history = []
    for site, (row, saved) in enumerate(zip(rows, table, strict=True)):
        states = _undominated(_extended(states, row, saved, needed))
        bound = states.damage + multiplier * (needed - states.saved) + rest[site + 1]
        states = states.take(np.flatnonzero(bound <= incumbent * (1 + 1e-9) + 1e-12))
        history.append(states)
    levels = np.zeros(len(grids), dtype=np.intp)
    row_now = int(np.argmin(np.where(states.saved >= needed, states.damage, np.inf)))
    for site in range(len(grids) - 1, -1, -1):
        levels[site] = grids[site][history[site].choice[row_now]]
        row_now = int(history[site].parent[row_now])
    return levels


def _dual(rows: Sequence[Floats], table: Sequence[Ints], needed: int) -> tuple[float, float]:
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


def _extended(states: _States, row: Floats, saved: Ints, needed: int) -> _States:
    """Every state with every setting of the next site; savings beyond need are all alike."""
    n, m = len(states.saved), len(row)
    return _States(
        np.minimum(states.saved[:, None] + saved, needed).ravel(),
        (states.damage[:, None] + row).ravel(),
        np.repeat(np.arange(n), m),
        np.tile(np.arange(m), n),
    )


def _undominated(states: _States) -> _States:
    """Without those that save no more than another and do no less damage; thinned evenly beyond `_STATES`."""
    order = np.lexsort((states.damage, -states.saved))  # most saved first
    damage = states.damage[order]
    better = np.concatenate([[True], damage[1:] < np.minimum.accumulate(damage)[:-1]])
    kept = order[better]
    if len(kept) > _STATES:
        kept = kept[np.unique(np.linspace(0, len(kept) - 1, _STATES).astype(np.intp))]
    return states.take(kept)


# --- exchanges: one site gentler, another harder ---


def _polish(levels: Levels, damage: Sequence[Floats], grids: Sequence[Levels], cost: CostModel, limit: int) -> Levels:
    """Exchanges on the grids, then on the full ladders, while they lower the damage."""
    full = [np.arange(len(each), dtype=np.intp) for each in damage]
    for ladders in (grids, full):
        for _ in range(4 * len(levels)):
            better = _exchange(levels, damage, ladders, cost, limit)
            if better is None:
                break
            levels = better
    return levels


def _exchange(
    levels: Levels, damage: Sequence[Floats], ladders: Sequence[Levels], cost: CostModel, limit: int
) -> Levels | None:
    """The feasible move of one site, or of two against each other, that lowers the damage most."""
    tried = _moves(levels, damage, ladders, cost)
    change = _change(tried, levels, damage)
    change[(cost(tried).flops > limit) | (change > -1e-12)] = np.inf
    best = int(np.argmin(change)) if len(change) else -1
    return tried[best] if best >= 0 and np.isfinite(change[best]) else None


def tighten(levels: Levels, damage: Sequence[Floats], cost: CostModel, limit: int) -> Levels:
    """Where FLOPs lie further below the limit than the tolerance, the cheapest exchanges that close in on it.

    On a coarse ladder the least damage may lie well below the limit; no more than `SLACK` is given up for being near.
    """
    full = [np.arange(len(each), dtype=np.intp) for each in damage]
    floor = limit - TOLERANCE * cost.dense.flops
    allowed = (1 + SLACK) * total(damage, levels)
    for _ in range(2 * len(levels)):
        now = _flops(cost, levels)
        if now >= floor:
            break
        tried = _moves(levels, damage, full, cost)
        change, flops = _change(tried, levels, damage), cost(tried).flops
        closer = (flops <= limit) & (flops > now) & (change <= allowed - total(damage, levels))
        if not closer.any():
            break
        enough = closer & (flops >= min(floor, flops[closer].max()))
        levels = tried[int(np.argmin(np.where(enough, change, np.inf)))]
    return levels


def _change(tried: Levels, levels: Levels, damage: Sequence[Floats]) -> Floats:
    """Damage of each row of `tried` less that of `levels`."""
    change = np.zeros(len(tried))
    for site, each in enumerate(damage):
        change += each[tried[:, site]] - each[levels[site]]
    return change


def _moves(levels: Levels, damage: Sequence[Floats], ladders: Sequence[Levels], cost: CostModel) -> Levels:
    """Single relaxations, and pairs of one site 1 to 3 notches gentler and another 1 to 3 notches harder."""
    gentler = _singles(levels, ladders, (-1, -2, -3, -8, -64))
    harder = _singles(levels, ladders, (1, 2, 3, 8, 64))
    gentler = _promising(gentler, levels, damage, cost)
    harder = _promising(harder, levels, damage, cost)
    if not len(gentler) or not len(harder):
        return gentler
    up, down = np.divmod(np.arange(len(gentler) * len(harder)), len(harder))
    steps = (gentler - levels)[up], (harder - levels)[down]
    apart = ~((steps[0] != 0) & (steps[1] != 0)).any(1)
    return np.concatenate([gentler, (levels + steps[0] + steps[1])[apart]])


def _singles(levels: Levels, ladders: Sequence[Levels], notches: Sequence[int]) -> Levels:
    """All allocations that differ in one site by so many notches of its ladder, as far as they exist."""

    def rows() -> Iterator[Levels]:
        for site, ladder in enumerate(ladders):
            place = int(np.searchsorted(ladder, levels[site]))
            for notch in notches:
                if 0 <= place + notch < len(ladder):
                    changed = levels.copy()
                    changed[site] = ladder[place + notch]
                    yield changed

    found = list(rows())
    return np.stack(found) if found else np.empty((0, len(levels)), dtype=np.intp)


def _promising(tried: Levels, levels: Levels, damage: Sequence[Floats], cost: CostModel) -> Levels:
    """The moves with the best exchange rate: most damage undone, or least done, per FLOP."""
    if len(tried) <= 4 * _MOVERS:
        return tried
    price = _change(tried, levels, damage) / np.maximum(np.abs(cost(tried).flops - _flops(cost, levels)), 1)
    return tried[np.sort(np.argsort(price, kind="stable")[: 4 * _MOVERS])]

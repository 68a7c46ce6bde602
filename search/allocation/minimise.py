"""The allocation of least predicted damage within a budget.

    minimise   Σᵢ damageᵢ(lᵢ)   subject to   figureₘ(l) ≤ limitₘ for every measure m of the budget

Where sites do not influence each other's figure and there is one (FLOPs of tables of kernels), this is a
multiple-choice knapsack and is solved exactly. Widths do: a layer costs in × out. There the multiplier λ of
damage + λ·Σₘ wₘ·figureₘ is found by bisection, for a few mixtures w of the measures; for each λ the sites take turns at
their best response to the others, on the true cost model, until none moves. What rounding left is then used up by
exchanges between sites. All of it is arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from methods.base import Levels
from search.allocation.budget import Budget
from search.allocation.knapsack import Floats, separable_savings, solve_knapsack
from search.allocation.targets import TOLERANCE

GRID = 64  # settings per site that the solvers look at; the last exchanges look at all
_BISECTIONS = 24  # of log λ: its range of e^40 shrinks below one in a million
_SWEEPS = 20  # turns of all sites; the descent ends after 3 to 5
SLACK = 0.02  # share of the damage that may be added for figures within the tolerance of the limit
_MOVERS = 24  # sites on each side of an exchange


def minimise(damage: Sequence[Floats], budget: Budget, *, starts: Sequence[Levels] = ()) -> Levels:
    """Levels of least summed damage within the budget.

    Args:
        damage: per site, of each of its settings.
        budget: reachable.
        starts: allocations from which the descent begins as well; they need not be feasible.
    """
    grids = [np.unique(np.linspace(0, len(each) - 1, GRID).round().astype(np.intp)) for each in damage]
    table = separable_savings(grids, budget)
    last = np.array([len(each) - 1 for each in damage], dtype=np.intp)
    if table is not None:
        candidates = [solve_knapsack(damage, grids, table, budget)]
    else:
        origins = [np.zeros_like(last), last, *starts]
        weights = mixtures(len(budget.limits))
        candidates = [
            _bisect(damage, grids, budget, mixture, origin.copy()) for mixture in weights for origin in origins
        ]
    polished = [_polish(levels, damage, grids, budget) for levels in candidates]
    best = min(polished, key=lambda levels: total(damage, levels))
    return tighten(best, damage, budget)


def mixtures(measures: int) -> Floats:
    """Weights of the measures in a price: each alone, all alike, and for two of them two more between."""
    rows = [*np.eye(measures), np.full(measures, 1 / measures)]
    if measures == 2:
        rows += [np.array([0.75, 0.25]), np.array([0.25, 0.75])]
    return np.unique(np.stack(rows), axis=0)


def total(damage: Sequence[Floats], levels: Levels) -> float:
    """Σᵢ damageᵢ(lᵢ)."""
    return float(sum(each[level] for each, level in zip(damage, levels, strict=True)))


def _excess(budget: Budget, levels: Levels) -> float:
    return float(budget.excess(levels[None])[0])


# --- coupled costs: bisection on the multiplier, best responses on the true cost model ---


def _bisect(
    damage: Sequence[Floats], grids: Sequence[Levels], budget: Budget, mixture: Floats, levels: Levels
) -> Levels:
    """The best feasible allocation met while λ closes in on the limit; every λ starts where the last one ended."""
    scale = max(total(damage, _ends(damage)), 1e-12)  # per unit of the dense figures
    low, high = np.log(scale) - 20, np.log(scale) + 20
    best, value = _ends(damage), np.inf
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        levels = _respond(damage, grids, budget, float(np.exp(middle)) * mixture, levels)
        if _excess(budget, levels) > 0:
            low = middle
            continue
        high = middle
        if total(damage, levels) < value:
            best, value = levels, total(damage, levels)
    return best


def _ends(damage: Sequence[Floats]) -> Levels:
    return np.array([len(each) - 1 for each in damage], dtype=np.intp)


def _respond(
    damage: Sequence[Floats], grids: Sequence[Levels], budget: Budget, prices: Floats, levels: Levels
) -> Levels:
    """Every site in turn takes its best setting given the others', until none moves."""
    levels = levels.copy()
    for _ in range(_SWEEPS):
        before = levels.copy()
        for site, grid in enumerate(grids):
            tried = np.repeat(levels[None], len(grid), axis=0)
            tried[:, site] = grid
            levels[site] = grid[int(np.argmin(damage[site][grid] + prices @ budget.shares(tried)))]
        if (levels == before).all():
            break
    return levels


# --- exchanges: one site gentler, another harder ---


def _polish(levels: Levels, damage: Sequence[Floats], grids: Sequence[Levels], budget: Budget) -> Levels:
    """Exchanges on the grids, then on the full ladders, while they lower the damage."""
    full = [np.arange(len(each), dtype=np.intp) for each in damage]
    for ladders in (grids, full):
        for _ in range(4 * len(levels)):
            better = _exchange(levels, damage, ladders, budget)
            if better is None:
                break
            levels = better
    return levels


def _exchange(levels: Levels, damage: Sequence[Floats], ladders: Sequence[Levels], budget: Budget) -> Levels | None:
    """The feasible move of one site, or of two against each other, that lowers the damage most."""
    tried = _moves(levels, damage, ladders, budget)
    change = _change(tried, levels, damage)
    change[(budget.excess(tried) > 0) | (change > -1e-12)] = np.inf
    best = int(np.argmin(change)) if len(change) else -1
    return tried[best] if best >= 0 and np.isfinite(change[best]) else None


def tighten(levels: Levels, damage: Sequence[Floats], budget: Budget) -> Levels:
    """Where the figures lie further below the limits than the tolerance, the cheapest exchanges that close in.

    On a coarse ladder the least damage may lie well below the limit; no more than `SLACK` is given up for being near.
    """
    full = [np.arange(len(each), dtype=np.intp) for each in damage]
    allowed = (1 + SLACK) * total(damage, levels)
    for _ in range(2 * len(levels)):
        now = _excess(budget, levels)
        if now >= -TOLERANCE:
            break
        tried = _moves(levels, damage, full, budget)
        change, excess = _change(tried, levels, damage), budget.excess(tried)
        closer = (excess <= 0) & (excess > now) & (change <= allowed - total(damage, levels))
        if not closer.any():
            break
        enough = closer & (excess >= min(-TOLERANCE, excess[closer].max()))
        levels = tried[int(np.argmin(np.where(enough, change, np.inf)))]
    return levels


def _change(tried: Levels, levels: Levels, damage: Sequence[Floats]) -> Floats:
    """Damage of each row of `tried` less that of `levels`."""
    change = np.zeros(len(tried))
    for site, each in enumerate(damage):
        change += each[tried[:, site]] - each[levels[site]]
    return change


def _moves(levels: Levels, damage: Sequence[Floats], ladders: Sequence[Levels], budget: Budget) -> Levels:
    """Single relaxations, and pairs of one site 1 to 3 notches gentler and another 1 to 3 notches harder."""
    gentler = _singles(levels, ladders, (-1, -2, -3, -8, -64))
    harder = _singles(levels, ladders, (1, 2, 3, 8, 64))
    gentler = _promising(gentler, levels, damage, budget)
    harder = _promising(harder, levels, damage, budget)
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


def _promising(tried: Levels, levels: Levels, damage: Sequence[Floats], budget: Budget) -> Levels:
    """The moves with the best exchange rate: most damage undone, or least done, for what it costs."""
    if len(tried) <= 4 * _MOVERS:
        return tried
    moved = budget.shares(tried).sum(0) - budget.shares(levels[None]).sum()
    price = _change(tried, levels, damage) / np.maximum(np.abs(moved), 1e-12)
    return tried[np.sort(np.argsort(price, kind="stable")[: 4 * _MOVERS])]

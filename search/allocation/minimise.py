"""The allocation of least predicted damage within a budget.

    minimise   Σᵢ damageᵢ(lᵢ)   subject to   figureₘ(l) ≤ limitₘ for every measure m of the budget

Tables of kernels: each site saves FLOPs independently of the others, so that with one measure this is a multiple-choice
knapsack, solved exactly (`search.allocation.knapsack`).

Widths: a layer costs in × out, so sites interact. The Lagrangian

    L(l, λ) = Σᵢ damageᵢ(lᵢ) + λ · Σₘ wₘ · figureₘ(l)

is minimised by best responses: the sites take turns at their best setting given all others, on the true cost model,
until none moves. The multiplier λ is found by bisection, for a few mixtures w of the measures. Exchanges between sites
then use the room that rounding left below the limits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from methods.base import Levels
from search.allocation.budget import Budget
from search.allocation.knapsack import Floats, separable_savings, solve_knapsack
from search.allocation.targets import TOLERANCE

GRID = 64  # settings per site that the solvers try; the last exchanges try all settings
_BISECTIONS = 24  # of log λ: its range of 40 shrinks below 3e-6
_SWEEPS = 20  # turns of all sites at most; the descent ends after 3 to 5
SLACK = 0.02  # share of the damage that may be added to bring the figures within the tolerance of the limits
_MAX_MOVES = 96  # single moves on each side of an exchange, so that at most 96² pairs are tried at once
_MIN_GAIN = 1e-12  # damage that an exchange must undo; less is rounding, and could go on for ever


def minimise_damage(damage: Sequence[Floats], budget: Budget, *, starts: Sequence[Levels] = ()) -> Levels:
    """Levels of least summed damage within the budget.

    Args:
        damage: per site, of each of its settings.
        budget: reachable.
        starts: more allocations from which the descent begins; they need not be feasible.
    """
    last = _hardest_levels(damage)
    grids = [np.unique(np.linspace(0, level, GRID).round().astype(np.intp)) for level in last]
    table = separable_savings(grids, budget)
    if table is not None:
        candidates = [solve_knapsack(damage, grids, table, budget)]
    else:  # the descent ends in a local optimum: several origins, of which the best result counts
        origins = [np.zeros_like(last), last, *starts]
        weights = price_mixtures(len(budget.limits))
        candidates = [
            _bisect_multiplier(damage, grids, budget, mixture, origin.copy())
            for mixture in weights
            for origin in origins
        ]
    polished = [_exchange_repeatedly(levels, damage, grids, budget) for levels in candidates]
    best = min(polished, key=lambda levels: total_damage(damage, levels))
    return tighten_to_limit(best, damage, budget)


def price_mixtures(measures: int) -> Floats:
    """Weights w of the measures, (n_mixtures, n_measures): each alone, all alike, and two more for two measures."""
    mixtures = [*np.eye(measures), np.full(measures, 1 / measures)]
    if measures == 2:
        mixtures += [np.array([0.75, 0.25]), np.array([0.25, 0.75])]
    return np.unique(np.stack(mixtures), axis=0)


def total_damage(damage: Sequence[Floats], levels: Levels) -> float:
    """Σᵢ damageᵢ(lᵢ)."""
    return float(sum(site_damage[level] for site_damage, level in zip(damage, levels, strict=True)))


# --- coupled costs: bisection on the multiplier, best responses on the true cost model ---


def _bisect_multiplier(
    damage: Sequence[Floats], grids: Sequence[Levels], budget: Budget, mixture: Floats, levels: Levels
) -> Levels:
    """The best feasible allocation found while λ closes in on the limit.

    The descent for each λ begins where that for the last λ ended.
    """
    scale = max(total_damage(damage, _hardest_levels(damage)), 1e-12)  # λ has the unit damage per dense figure
    low, high = np.log(scale) - 20, np.log(scale) + 20
    best, least = _hardest_levels(damage), np.inf
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        levels = _best_responses(damage, grids, budget, float(np.exp(middle)) * mixture, levels)
        if budget.largest_excess(levels[None])[0] > 0:
            low = middle
            continue
        high = middle
        if total_damage(damage, levels) < least:
            best, least = levels, total_damage(damage, levels)
    return best


def _hardest_levels(damage: Sequence[Floats]) -> Levels:
    return np.array([len(site_damage) - 1 for site_damage in damage], dtype=np.intp)


def _best_responses(
    damage: Sequence[Floats], grids: Sequence[Levels], budget: Budget, prices: Floats, levels: Levels
) -> Levels:
    """Every site in turn takes its best setting given the others', until none moves."""
    levels = levels.copy()
    for _ in range(_SWEEPS):
        before = levels.copy()
        for site, grid in enumerate(grids):
            tried = np.repeat(levels[None], len(grid), axis=0)
            tried[:, site] = grid
            levels[site] = grid[int(np.argmin(damage[site][grid] + prices @ budget.relative_excess(tried)))]
        if (levels == before).all():
            break
    return levels


# --- exchanges: one site gentler, another harder ---


def _exchange_repeatedly(levels: Levels, damage: Sequence[Floats], grids: Sequence[Levels], budget: Budget) -> Levels:
    """Exchanges on the grids, then on the full ladders, while they lower the damage."""
    for ladders in (grids, _full_ladders(damage)):
        for _ in range(4 * len(levels)):
            exchanged = _best_exchange(levels, damage, ladders, budget)
            if exchanged is None:
                break
            levels = exchanged
    return levels


def _full_ladders(damage: Sequence[Floats]) -> list[Levels]:
    return [np.arange(len(site_damage), dtype=np.intp) for site_damage in damage]


def _best_exchange(
    levels: Levels, damage: Sequence[Floats], ladders: Sequence[Levels], budget: Budget
) -> Levels | None:
    """The feasible move of one site, or of two against each other, that lowers the damage most."""
    tried = _list_moves(levels, damage, ladders, budget)
    change = _damage_change(tried, levels, damage)
    change[(budget.largest_excess(tried) > 0) | (change > -_MIN_GAIN)] = np.inf
    best = int(np.argmin(change)) if len(change) else -1
    return tried[best] if best >= 0 and np.isfinite(change[best]) else None


def tighten_to_limit(levels: Levels, damage: Sequence[Floats], budget: Budget) -> Levels:
    """The allocation after the cheapest exchanges that bring the figures within the tolerance of the limits.

    On a coarse ladder the allocation of least damage may lie far below the limits. A target is met close to its limit,
    so up to the share `SLACK` of the damage is added to come closer.
    """
    full = _full_ladders(damage)
    allowed = (1 + SLACK) * total_damage(damage, levels)
    for _ in range(2 * len(levels)):
        present = float(budget.largest_excess(levels[None])[0])
        if present >= -TOLERANCE:
            break
        tried = _list_moves(levels, damage, full, budget)
        change, excess = _damage_change(tried, levels, damage), budget.largest_excess(tried)
        closer = (excess <= 0) & (excess > present) & (change <= allowed - total_damage(damage, levels))
        if not closer.any():
            break
        # Moves that reach the tolerance are all close enough; without one, those that come closest.
        enough = closer & (excess >= min(-TOLERANCE, excess[closer].max()))
        levels = tried[int(np.argmin(np.where(enough, change, np.inf)))]
    return levels


def _damage_change(tried: Levels, levels: Levels, damage: Sequence[Floats]) -> Floats:
    """Damage of each row of `tried` less that of `levels`."""
    change = np.zeros(len(tried))
    for site, site_damage in enumerate(damage):
        change += site_damage[tried[:, site]] - site_damage[levels[site]]
    return change


def _list_moves(levels: Levels, damage: Sequence[Floats], ladders: Sequence[Levels], budget: Budget) -> Levels:
    """Allocations with one site gentler, and those with one site gentler and another harder.

    Steps are short (1 to 3 notches) for the fine adjustment, and long (8, 64) to leave a local optimum.
    """
    gentler, harder = (
        _promising_moves(_single_moves(levels, ladders, notches), levels, damage, budget)
        for notches in ((-1, -2, -3, -8, -64), (1, 2, 3, 8, 64))
    )
    if not len(gentler) or not len(harder):
        return gentler
    up, down = np.divmod(np.arange(len(gentler) * len(harder)), len(harder))
    steps = (gentler - levels)[up], (harder - levels)[down]
    different_sites = ~((steps[0] != 0) & (steps[1] != 0)).any(1)
    return np.concatenate([gentler, (levels + steps[0] + steps[1])[different_sites]])


def _single_moves(levels: Levels, ladders: Sequence[Levels], notches: Sequence[int]) -> Levels:
    """All allocations that differ in one site by one of these numbers of notches, (n_moves, n_sites)."""
    moves = []
    for site, ladder in enumerate(ladders):
        place = int(np.searchsorted(ladder, levels[site]))
        for notch in notches:
            if 0 <= place + notch < len(ladder):
                moved = levels.copy()
                moved[site] = ladder[place + notch]
                moves.append(moved)
    return np.stack(moves) if moves else np.empty((0, len(levels)), dtype=np.intp)


def _promising_moves(tried: Levels, levels: Levels, damage: Sequence[Floats], budget: Budget) -> Levels:
    """The moves with the best exchange rate: most damage undone, or least added, per change of the figures."""
    if len(tried) <= _MAX_MOVES:
        return tried
    moved = budget.relative_excess(tried).sum(0) - budget.relative_excess(levels[None]).sum()
    price = _damage_change(tried, levels, damage) / np.maximum(np.abs(moved), 1e-12)
    return tried[np.sort(np.argsort(price, kind="stable")[:_MAX_MOVES])]

"""Sites, costs and problems without a network, for tests of allocation and strategies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from methods.base import Cost, Costs, Levels, Setting, Site
from search.allocation.budget import Budget
from search.allocation.targets import parse_target
from search.candidate import Outcome
from search.recipe import Recipe
from search.strategies.problem import Problem, Scan


def toy_site(name: str, strengths: Sequence[float]) -> Site:
    settings = tuple(Setting(ratio=strength) for strength in strengths)
    return Site(name, settings, tuple(strengths), (name,), len(strengths))


def even_sites(sizes: Sequence[int]) -> list[Site]:
    """Sites that can lose one channel after the other, down to one, like groups of so many channels."""
    return [toy_site(f"s{i}", [1 - kept / size for kept in range(size, 0, -1)]) for i, size in enumerate(sizes)]


class TableCost:
    """FLOPs are a sum of one table entry per site: what can be checked by hand."""

    def __init__(self, tables: Sequence[Sequence[int]]) -> None:
        self.tables = [np.array(table, dtype=np.int64) for table in tables]
        self.calls = self.rows = 0
        whole = int(sum(table[0] for table in self.tables))
        self.dense = Cost(whole, whole, 4 * whole)

    def __call__(self, levels: Levels) -> Costs:
        self.calls, self.rows = self.calls + 1, self.rows + len(levels)
        flops = sum((table[levels[:, i]] for i, table in enumerate(self.tables)), np.zeros(len(levels), np.int64))
        return Costs(flops, flops, 4 * flops)


class ChainCost:
    """Widths that multiply, as in a chain of convolutions: site i feeds site i + 1."""

    def __init__(self, sizes: Sequence[int], places: Sequence[int], fixed: int = 3) -> None:
        self.sizes, self.places, self.fixed = np.array(sizes), np.array(places), fixed
        whole = int(self(np.zeros((1, len(sizes)), dtype=np.intp)).flops[0])
        self.dense = Cost(whole, whole, 4 * whole)

    def __call__(self, levels: Levels) -> Costs:
        kept = self.sizes - levels
        before = np.concatenate([np.full((len(levels), 1), self.fixed), kept[:, :-1]], axis=1)
        flops = (kept * before * self.places).sum(1).astype(np.int64)
        return Costs(flops, flops, 4 * flops)


def toy_problem(
    sites: Sequence[Site], cost: TableCost | ChainCost, targets: Sequence[float], **fields: object
) -> Problem:
    asked = [(parse_target(str(kept)), Budget({"flops": int(kept * cost.dense.flops)}, cost)) for kept in targets]
    defaults = {"recipe": Recipe(epochs=1), "scan": Scan(levels=2, images=100), **fields}
    return Problem("fake", {}, sites, cost, asked, **defaults)  # type: ignore[arg-type]


def judged(accuracy: float, loss: float = 1.0) -> Outcome:
    return Outcome(status="ok", accuracy=accuracy, loss=loss, drift=loss, images=100, flops=1, params=1, bytes=4)

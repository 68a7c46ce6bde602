"""Costs of methods whose sites are independent of each other: a table for each site, and their sums."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from torch import nn

from methods.base import Cost, Costs, Levels
from methods.graph.trace import LayerUse, count_params


class TableCost:
    """The cost of all layers outside sites, plus for every site the entry of its setting."""

    def __init__(self, rest: Cost, tables: Sequence[Sequence[Cost]]) -> None:
        """`tables[i][l]`: the cost of site i's layers at setting l; setting 0 is dense."""
        longest = max((len(table) for table in tables), default=1)
        self._rest = np.array(rest, dtype=np.int64)
        self._table = np.zeros((len(tables), longest, 3), dtype=np.int64)
        for entries, table in zip(self._table, tables, strict=True):
            entries[: len(table)] = table
        self._lengths = np.array([len(table) for table in tables], dtype=np.intp)
        self._sites = np.arange(len(tables))

    @property
    def dense(self) -> Cost:
        total = self._rest + self._table[:, 0].sum(0)
        return Cost(*(int(figure) for figure in total))

    def __call__(self, levels: Levels) -> Costs:
        """`levels` (n_allocations, n_sites)."""
        chosen = np.asarray(levels)
        assert ((chosen >= 0) & (chosen < self._lengths)).all(), "a level that its site does not have"
        totals: npt.NDArray[np.int64] = self._rest + self._table[self._sites, chosen].sum(1)
        return Costs(totals[:, 0], totals[:, 1], totals[:, 2])


def network_cost(network: nn.Module, uses: Mapping[str, LayerUse]) -> Cost:
    """The cost of a dense network: MACs of its layers, shared parameters counted once, four bytes each."""
    params = count_params(network)
    return Cost(sum(use.flops for use in uses.values()), params, 4 * params)


def falling_settings(costs: Sequence[Cost], strengths: Sequence[float]) -> tuple[list[int], list[float]]:
    """The ladder of a site: numbers of the settings to keep, in falling cost, and their strengths, made to rise.

    Setting 0 is dense and stays first. A setting that saves nothing over the previous one, or costs more in FLOPs,
    parameters or bytes, is left out.
    """
    order, rising = [0], [0.0]
    for i in sorted(range(1, len(costs)), key=lambda i: (-costs[i].flops, -costs[i].bytes, strengths[i])):
        last, cost = costs[order[-1]], costs[i]
        if cost != last and all(now <= before for now, before in zip(cost, last, strict=True)):
            order.append(i)
            rising.append(max(strengths[i], rising[-1]))
    return order, rising


def sum_costs(costs: Iterable[Cost]) -> Cost:
    return Cost(*(sum(figures) for figures in zip(Cost(0, 0, 0), *costs, strict=True)))


def subtract_costs(total: Cost, accounted: Iterable[Cost]) -> Cost:
    """The part of `total` that `accounted` does not cover."""
    return Cost(*(figure - covered for figure, covered in zip(total, sum_costs(accounted), strict=True)))

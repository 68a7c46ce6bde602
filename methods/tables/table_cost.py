"""Costs of methods whose sites do not influence each other: a table per site, and sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from torch import nn

from methods.base import Cost, Costs, Levels
from methods.graph.trace import LayerUse, count_params, layer_flops


class TableCost:
    """Cost = that of what no site touches + for every site the entry of its setting."""

    def __init__(self, rest: Cost, tables: Sequence[Sequence[Cost]]) -> None:
        """`tables[i][l]`: what the layers of site i cost at setting l; entry 0 is dense."""
        longest = max((len(table) for table in tables), default=1)
        self._rest = np.array(rest, dtype=np.int64)
        self._table = np.zeros((len(tables), longest, 3), dtype=np.int64)
        for row, table in zip(self._table, tables, strict=True):
            row[: len(table)] = table
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
    """The network as it stands: MACs of its layers, parameters counted once, four bytes each."""
    params = count_params(network)
    return Cost(layer_flops(network, uses), params, 4 * params)


def falling_settings(costs: Sequence[Cost], strengths: Sequence[float]) -> tuple[list[int], list[float]]:
    """Which settings a site keeps, in falling cost, and their strengths made to rise with them.

    Setting 0 is dense and stays first. One that saves nothing over an earlier one, or is dearer in anything, goes.
    """
    kept, rising = [0], [0.0]
    for i in sorted(range(1, len(costs)), key=lambda i: (-costs[i].flops, -costs[i].bytes, strengths[i])):
        last, cost = costs[kept[-1]], costs[i]
        if cost != last and all(now <= before for now, before in zip(cost, last, strict=True)):
            kept.append(i)
            rising.append(max(strengths[i], rising[-1]))
    return kept, rising


def subtract_costs(total: Cost, parts: Sequence[Cost]) -> Cost:
    """What of `total` the parts do not account for."""
    return Cost(*(int(figure) for figure in np.array(total) - np.array(parts, dtype=np.int64).reshape(-1, 3).sum(0)))

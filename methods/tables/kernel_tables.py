"""Base of the methods that take kernels from tables: choice of layers, ladders, cost, work on narrowed networks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

from torch import nn

from methods.base import Cost, Setting, Site
from methods.following import FollowingMethod
from methods.graph.narrow import Conv
from methods.tables.codebook import why_unsupported
from methods.tables.table_cost import TableCost, falling_settings, network_cost, subtract_costs


class TableSite(NamedTuple):
    """All settings of a site, dense first, each with its strength and the cost of the site's layers."""

    name: str
    layers: tuple[str, ...]
    kernels: int
    settings: Sequence[Setting]
    strengths: Sequence[float]
    costs: Sequence[Cost]


class KernelTables(FollowingMethod):
    """A method of convolutions."""

    def why_left_dense(self, name: str, layer: nn.Module) -> str | None:
        if isinstance(layer, nn.Linear):
            return "linear layers stay dense"
        return why_unsupported(layer) or self.why_dense(name, self._conv_layer(name))

    @abstractmethod
    def why_dense(self, name: str, layer: Conv) -> str | None:
        """Why a convolution cannot take part; None if it can."""

    @abstractmethod
    def table_sites(self) -> Iterator[TableSite]:
        """Every site with all of its settings; those that save nothing are left out of the ladders afterwards."""

    @cached_property
    def _site_ladders(self) -> tuple[tuple[Site, ...], TableCost]:
        sites, tables = [], []
        for site in self.table_sites():
            levels, strengths = falling_settings(site.costs, site.strengths)
            if len(levels) > 1:
                settings = tuple(site.settings[level] for level in levels)
                sites.append(Site(site.name, settings, tuple(strengths), site.layers, site.kernels))
                tables.append([site.costs[level] for level in levels])
        rest = subtract_costs(network_cost(self.network, self._uses), [table[0] for table in tables])
        return tuple(sites), TableCost(rest, tables)

    def _conv_layer(self, name: str) -> Conv:
        layer = self.network.get_submodule(name)
        assert isinstance(layer, Conv)
        return layer

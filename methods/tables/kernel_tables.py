"""Base of the methods that take kernels from tables: choice of layers, ladders, cost, work on narrowed networks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor, nn

from methods.base import Cost, CostModel, Setting, Site, lazy_attribute
from methods.following import FollowingMethod
from methods.graph.channels import shared_weights
from methods.graph.narrow import Conv
from methods.graph.trace import LayerUse, trace_layers
from methods.tables.codebook import why_unsupported
from methods.tables.table_cost import TableCost, falling_settings, network_cost, subtract_costs
from models.errors import UserError
from models.execution.inputs import Example


class TableSite(NamedTuple):
    """All settings of a site, dense first, each with its strength and the cost of the site's layers."""

    name: str
    layers: tuple[str, ...]
    kernels: int
    settings: Sequence[Setting]
    strengths: Sequence[float]
    costs: Sequence[Cost]


class KernelTables(FollowingMethod):
    """Ladders are computed when they are first read, because `unpack` needs none."""

    saves_nothing: str
    """The reason given for layers that no setting makes cheaper."""

    def __init__(self, network: nn.Module, example: Example, options: Mapping[str, Any]) -> None:
        super().__init__(network, example, options)
        self._uses = trace_layers(network, example)
        self._left_dense: dict[str, str] = {}
        self._names = self._find_layers()

    @abstractmethod
    def why_dense(self, name: str, layer: Conv, use: LayerUse) -> str | None:
        """Why a convolution cannot take part; None if it can."""

    @abstractmethod
    def table_sites(self) -> Iterator[TableSite]:
        """Every site with all of its settings; those that save nothing are left out of the ladders afterwards."""

    @lazy_attribute
    def sites(self) -> tuple[Site, ...]:
        return self._site_ladders[0]

    @lazy_attribute
    def cost(self) -> CostModel:
        return self._site_ladders[1]

    @lazy_attribute
    def skipped(self) -> dict[str, str]:
        layers = {*self._left_dense, *(layer for site in self.sites for layer in site.layers)}
        return self._left_dense | {name: self.saves_nothing for name in self._names if name not in layers}

    def _find_layers(self) -> list[str]:
        """The layers that take part; the reasons of all others go to `_left_dense`."""
        names, shared = [], shared_weights(self.network)
        modules = dict(self.network.named_modules())
        for name, use in self._uses.items():
            if name not in modules:
                self._left_dense[name] = "it is a bare parameter, and no layer's"
                continue
            layer = modules[name]
            reason = (
                "linear layers stay dense"
                if isinstance(layer, nn.Linear)
                else shared.get(name) or why_unsupported(layer)
            )
            if reason is None and not use.applies_all_of(self._conv_layer(name).weight):
                reason = "its weight is applied in parts"
            if reason is None:
                reason = self.why_dense(name, self._conv_layer(name), use)
            if reason is not None:
                self._left_dense[name] = reason
            elif not bool(self._conv_layer(name).weight.isfinite().all()):
                raise UserError(
                    f"layer {name!r} holds weights that are not finite; train it or load other weights first"
                )
            else:
                names.append(name)
        return names

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

    @staticmethod
    def _load_rest(network: nn.Module, tensors: Mapping[str, Tensor], rebuilt: Sequence[str]) -> nn.Module:
        """Load all tensors but those that layers call by names in `rebuilt`: these were made from the tables."""
        missing, unknown = network.load_state_dict(dict(tensors), strict=False)
        assert not unknown
        assert all(key.rpartition(".")[2] in rebuilt for key in missing)
        return network

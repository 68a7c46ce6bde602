"""The base of methods that give convolutions kernels from tables: which layers take part, their ladders, their cost."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Self

from torch import Tensor, nn

from methods.base import Compressor, Cost, CostModel, Setting, Site, late
from methods.graph.channels import shared_weights
from methods.graph.removal import KeptChannels
from methods.graph.trace import LayerUse, trace_layers
from methods.tables.codebook import why_unsupported
from methods.tables.table_cost import TableCost, falling_settings, network_cost, subtract_costs
from models.errors import UserError


class TableSite(NamedTuple):
    """What the layers of a site may become: settings from dense on, each with its strength and the layers' cost."""

    name: str
    layers: tuple[str, ...]
    kernels: int
    settings: Sequence[Setting]
    strengths: Sequence[float]
    costs: Sequence[Cost]


class KernelTables(Compressor):
    """A method that may work on the whole network, or on what another method has left of it (`narrowed`).

    Ladders are found when they are first asked for: `unpack` needs none.
    """

    saves_nothing: str
    """What is said of a layer that no setting makes cheaper."""
    _wide: Self | None = None

    def __init__(self, network: nn.Module, example: Tensor, options: Mapping[str, Any]) -> None:
        super().__init__(network, example, options)
        self._uses = trace_layers(network, example)
        self._left_dense: dict[str, str] = {}
        self._names = self._find_layers()
        self._kept: KeptChannels | None = None  # what is left of it

    @abstractmethod
    def why_dense(self, name: str, layer: nn.Conv2d, use: LayerUse) -> str | None:
        """Why a convolution cannot take part; None if it can."""

    @abstractmethod
    def table_sites(self) -> Iterator[TableSite]:
        """Every site with all settings there are; those that save nothing are left out afterwards."""

    @late
    def sites(self) -> tuple[Site, ...]:
        return self._ladders[0]

    @late
    def cost(self) -> CostModel:
        return self._ladders[1]

    @late
    def skipped(self) -> dict[str, str]:
        layers = {*self._left_dense, *(layer for site in self.sites for layer in site.layers)}
        return self._left_dense | {name: self.saves_nothing for name in self._names if name not in layers}

    def narrowed(self, network: nn.Module, kept: KeptChannels | None) -> Self:
        """The method for a narrowed network; what was measured of the whole one is shared, and holds for the rest."""
        twin = copy.copy(self)
        twin.network, twin._kept, twin._wide = network, kept, self.whole
        return twin

    @property
    def whole(self) -> Self:
        """The method as it was before it was narrowed."""
        return self if self._wide is None else self._wide

    def _find_layers(self) -> list[str]:
        """The layers that take part; of the others, the reason goes to `_left_dense`."""
        names, shared = [], shared_weights(self.network)
        for name, use in self._uses.items():
            layer = self.network.get_submodule(name)
            reason = (
                "linear layers stay dense"
                if isinstance(layer, nn.Linear)
                else shared.get(name) or why_unsupported(layer)
            )
            if reason is None:
                reason = self.why_dense(name, self._layer(name), use)
            if reason is not None:
                self._left_dense[name] = reason
            elif not bool(self._layer(name).weight.isfinite().all()):
                raise UserError(
                    f"layer {name!r} holds weights that are not finite; train it or load other weights first"
                )
            else:
                names.append(name)
        return names

    @cached_property
    def _ladders(self) -> tuple[tuple[Site, ...], TableCost]:
        sites, tables = [], []
        for site in self.table_sites():
            kept, strengths = falling_settings(site.costs, site.strengths)
            if len(kept) > 1:
                settings = tuple(site.settings[level] for level in kept)
                sites.append(Site(site.name, settings, tuple(strengths), site.layers, site.kernels))
                tables.append([site.costs[level] for level in kept])
        rest = subtract_costs(network_cost(self.network, self._uses), [table[0] for table in tables])
        return tuple(sites), TableCost(rest, tables)

    def _layer(self, name: str) -> nn.Conv2d:
        layer = self.network.get_submodule(name)
        assert isinstance(layer, nn.Conv2d)
        return layer

    @staticmethod
    def _load_rest(network: nn.Module, tensors: Mapping[str, Tensor], rebuilt: Sequence[str]) -> nn.Module:
        """Load what the tables do not say; the tensors called `rebuilt` in their layers were made from the tables."""
        missing, unknown = network.load_state_dict(dict(tensors), strict=False)
        assert not unknown
        assert all(key.rpartition(".")[2] in rebuilt for key in missing)
        return network

"""Bases of the methods that work layer by layer and can come second in a composition, on a narrowed network."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Self

from torch import Tensor, nn

from methods.base import Allocation, Compressor, CostModel, Site, copy_network, lazy_attribute
from methods.graph.channels import shared_weights
from methods.graph.removal import Change, KeptChannels, RemovalOrder
from methods.graph.trace import LayerUse, trace_layers
from models.errors import UserError
from models.execution.inputs import Example


class LayerMethod(Compressor):
    """A method that replaces some layers, each by itself, and leaves all others to other methods."""

    rebuilt: Sequence[str] = ()
    """What replaced layers call the tensors that are not stored, as they follow from those that are."""

    @abstractmethod
    def replace_layers(self, small: nn.Module, allocation: Allocation) -> None:
        """Compress layers of a copy of `network`, in place."""

    @abstractmethod
    def outline_layers(self, small: nn.Module, allocation: Allocation, tensors: dict[str, Tensor]) -> None:
        """Give a copy of `network` the layers of a stored one, in place; tables are taken out of `tensors`."""

    def store_tables(self, network: nn.Module, tensors: dict[str, Tensor]) -> None:
        """Bring the state of a compressed network to its stored form, in place."""

    @abstractmethod
    def bind_narrowed(self, network: nn.Module, channels: KeptChannels | None) -> Self:
        """The method for a narrowed network (`Follows`); it shares the measurements of the dense one."""

    @abstractmethod
    def cost_change(self, order: RemovalOrder) -> Change:
        """The change of cost by the settings, on any network that a first method can leave (`Follows`)."""

    def compress(self, allocation: Allocation) -> nn.Module:
        small = copy_network(self.network)
        self.replace_layers(small, allocation)
        return small

    def pack(self, network: nn.Module) -> dict[str, Tensor]:
        """The state, with the layers' tables in their stored form."""
        tensors = super().pack(network)
        self.store_tables(network, tensors)
        return tensors

    def unpack(self, allocation: Allocation, tensors: Mapping[str, Tensor]) -> nn.Module:
        network, plain = copy_network(self.network), dict(tensors)
        self.outline_layers(network, allocation, plain)
        missing, unknown = network.load_state_dict(plain, strict=False)
        assert not unknown
        assert all(key.rpartition(".")[2] in self.rebuilt for key in missing)
        return network


class FollowingMethod(LayerMethod):
    """A method for the dense network, or for one that another method has narrowed (`bind_narrowed`).

    Ladders are computed when they are first read, because `unpack` needs none.
    """

    saves_nothing: str
    """The reason given for layers that no setting makes cheaper."""
    _wide: Self | None = None
    _kept_channels: KeptChannels | None = None
    """The channels of a narrowed network."""

    def __init__(self, network: nn.Module, example: Example, options: Mapping[str, Any]) -> None:
        super().__init__(network, example, options)
        self._uses = trace_layers(network, example)
        self._left_dense: dict[str, str] = {}
        self._names = self._find_layers()

    @abstractmethod
    def why_left_dense(self, name: str, layer: nn.Module) -> str | None:
        """Why a layer cannot take part; None if it can, and is called with a weight of its own."""

    @cached_property
    @abstractmethod
    def _site_ladders(self) -> tuple[tuple[Site, ...], CostModel]:
        """The sites, without those that no setting makes cheaper, and the costs of their settings."""

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

    def forget_ladders(self) -> None:
        """Let ladders be computed anew, from what was measured since."""
        for computed in ("_site_ladders", "sites", "cost", "skipped"):
            self.__dict__.pop(computed, None)

    def bind_narrowed(self, network: nn.Module, channels: KeptChannels | None) -> Self:
        twin = copy.copy(self)  # shallow, with what was computed and measured
        twin.network, twin._kept_channels, twin._wide = network, channels, self.whole_method
        return twin

    @property
    def whole_method(self) -> Self:
        """The method of the dense network, from which this one may be narrowed."""
        return self if self._wide is None else self._wide

    def _find_layers(self) -> list[str]:
        """The layers that take part; the reasons of all others go to `_left_dense`."""
        names, shared = [], shared_weights(self.network)
        modules = dict(self.network.named_modules())
        for name, use in self._uses.items():
            reason = self._why_dense(name, modules.get(name), use, shared)
            if reason is not None:
                self._left_dense[name] = reason
                continue
            if not bool(_weight_of(modules[name]).isfinite().all()):
                raise UserError(
                    f"layer {name!r} holds weights that are not finite; train it or load other weights first"
                )
            names.append(name)
        return names

    def _why_dense(self, name: str, layer: nn.Module | None, use: LayerUse, shared: Mapping[str, str]) -> str | None:
        if layer is None:
            return "it is a bare parameter, and no layer's"
        reason = self.why_left_dense(name, layer) or shared.get(name)
        if reason is None and use.calls == 0:
            reason = "not called in evaluation"
        if reason is None and not use.applies_all_of(_weight_of(layer)):
            reason = "its weight is applied in parts"
        return reason


def _weight_of(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight

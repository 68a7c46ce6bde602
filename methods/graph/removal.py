"""The channels that each layer keeps once a first method has narrowed the network, for any of its allocations.

A method that can come first removes channels in a fixed order: channel c of a site is removed at level `gone_at[c]` of
the site's ladder and at all later ones. The cost of a second method on the narrowed network is then arithmetic on these
levels.

Levels of the first method carry a column of zeros in front, (n_allocations, 1 + n_sites), for channels of no site,
which are never removed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from methods.base import Allocation, Compressor, Costs, Levels
from methods.graph.channels import Group
from methods.graph.narrow import Side, channels_of
from methods.graph.width_cost import WidthCost

Ints = npt.NDArray[np.int64]
KeptChannels = Callable[[str], tuple[Tensor, Tensor]]
"""Layer name -> its remaining input channels and its remaining output channels, ascending."""
Change = Callable[[Levels, Levels], Costs]
"""Levels of the first method (with their column of zeros) and of the second -> figures to add to the cost of the
network that the first method leaves; (n_allocations,) each, mostly negative."""


@dataclass(frozen=True)
class ChannelRemoval:
    """Which site removes each channel on one side of a layer, and from which of its levels on."""

    site: Levels  # (C,) number of the site; 0: the channel always stays
    gone_at: Levels  # (C,) the first level at which it is removed

    def channels_left(self, levels: Levels) -> Tensor:
        """The channels that remain at one allocation's levels (1 + n_sites,), ascending."""
        return torch.from_numpy(np.flatnonzero(levels[self.site] < self.gone_at))


class RemovalOrder:
    """Which site removes each channel of every layer, and in which order."""

    def __init__(
        self, network: nn.Module, groups: Sequence[Group], gone_at: Mapping[str, Tensor], cost: WidthCost
    ) -> None:
        """`groups` in the order of the sites; `gone_at`: site -> the level that removes each of its channels."""
        self._network, self._cost = network, cost
        self._places: dict[tuple[str, Side], list[tuple[int, Levels, Levels]]] = {}
        for number, group in enumerate(groups, start=1):
            levels = gone_at[group.name].numpy().astype(np.intp)
            for slots in group.slots:
                place = (number, slots.index.numpy(), levels[slots.channel.numpy()])
                self._places.setdefault((slots.name, slots.side), []).append(place)

    def removal_of(self, layer: str, side: Side) -> ChannelRemoval:
        width = channels_of(self._network.get_submodule(layer), side)
        site, gone_at = np.zeros(width, dtype=np.intp), np.ones(width, dtype=np.intp)
        for number, index, levels in self._places.get((layer, side), ()):
            site[index], gone_at[index] = number, levels
        return ChannelRemoval(site, gone_at)

    def positions_left(self, dense: Mapping[str, int]) -> Callable[[Levels], Ints]:
        """The positions of layers at any of the first method's levels, (n_allocations, n_layers).

        Args:
            dense: layer -> its positions in the dense network.
        """
        columns, counts = [self._cost.layers.index(name) for name in dense], np.array(list(dense.values()))
        fewest = np.array([[len(ladder) - 1 for ladder in self._cost.ladders]])
        if not (np.rint(self._cost.position_shares(fewest)[:, columns] * counts) < counts).any():
            return lambda levels: np.broadcast_to(counts, (len(levels), len(counts)))
        return lambda levels: np.rint(self._cost.position_shares(levels[:, 1:])[:, columns] * counts).astype(np.int64)

    def kept_channels(self, levels: Levels) -> KeptChannels:
        """The channels that each layer keeps at the first method's levels (n_sites,)."""
        padded = np.concatenate([np.zeros(1, dtype=np.intp), levels])
        return lambda layer: (
            self.removal_of(layer, "in").channels_left(padded),
            self.removal_of(layer, "out").channels_left(padded),
        )


@runtime_checkable
class Narrows(Protocol):
    """A method that can come first in a composition: `compress` removes channels in a fixed order."""

    def removal_order(self) -> RemovalOrder:
        """The order of removal; asked for after `calibrate`, if the method needs calibration."""

    def outline_network(self, allocation: Allocation) -> nn.Module:
        """A network with the widths of `allocation`; which channels it keeps does not matter."""


@runtime_checkable
class Follows(Protocol):
    """A method that can come second in a composition, on the network that the first has narrowed."""

    def bind_narrowed(self, network: nn.Module, channels: KeptChannels | None) -> Compressor:
        """The method bound to a narrowed network, with the sites, settings and measurements of the dense network.

        `channels` tells which channels the network has kept; without it, the result can only `unpack`.
        """

    def cost_change(self, order: RemovalOrder) -> Change:
        """The change of cost by the method's settings, on any of the networks that the first method can leave."""


class ChannelTally:
    """Sums of features over the channels that remain, on one side of several layers, by lookup.

    Each layer has features of shape (variants, C, K); a call gives the (K,) sums of one variant of each layer.
    """

    def __init__(self, sides: Sequence[ChannelRemoval], features: Sequence[Ints]) -> None:
        # A table for each layer and each site that removes some of its channels: the sums at every level of the site.
        tables: list[Ints] = []
        layer_of, site_of, top_of, start_of, start = [], [], [], [], 0
        for layer, (side, feature) in enumerate(zip(sides, features, strict=True)):
            for site in np.unique(side.site):
                members = side.site == site
                table = _sums_by_level(side.gone_at[members], feature[:, members])
                layer_of.append(layer)
                site_of.append(site)
                top_of.append(table.shape[1] - 1)
                start_of.append(start)
                tables.append(table.reshape(-1, table.shape[2]))
                start += len(tables[-1])
        self._table = np.concatenate(tables)
        self._layer, self._site = np.array(layer_of, dtype=np.intp), np.array(site_of, dtype=np.intp)
        self._top, self._start = np.array(top_of, dtype=np.intp), np.array(start_of, dtype=np.intp)
        self._first = np.searchsorted(self._layer, np.arange(len(sides)))

    def __call__(self, levels: Levels, variant: Levels | None = None) -> Ints:
        """`levels` (A, 1 + n_sites), `variant` (A, L), by default the only one -> (A, L, K)."""
        # Levels beyond the last one that removes a channel of the layer change nothing more.
        entries = self._start + np.minimum(levels[:, self._site], self._top)
        if variant is not None:
            entries = entries + variant[:, self._layer] * (self._top + 1)
        sums: Ints = np.add.reduceat(self._table[entries], self._first, axis=1)
        return sums


def _sums_by_level(gone_at: Levels, features: Ints) -> Ints:
    """(C,), (variants, C, K) -> the sums over the channels that remain at every level, (variants, levels, K)."""
    gone = np.zeros((features.shape[0], int(gone_at.max()) + 1, features.shape[2]), dtype=np.int64)
    for variant, feature in zip(gone, features, strict=True):
        np.add.at(variant, gone_at, feature)
    remaining: Ints = features.sum(1)[:, None] - gone.cumsum(1)
    return remaining


def count_remaining(sides: Sequence[ChannelRemoval]) -> ChannelTally:
    """A tally of the number of channels that remain."""
    return ChannelTally(sides, [np.ones((1, len(side.site), 1), dtype=np.int64) for side in sides])


def cut_table(table: Tensor, channels: tuple[Tensor, Tensor], groups: int) -> Tensor:
    """The entries of a table (N, C / groups), one per kernel, whose kernels remain: (N left, C left / groups)."""
    inputs, outputs = (indices.to(table.device).unflatten(0, (groups, -1)) for indices in channels)
    blocks = table.unflatten(0, (groups, -1))
    filters, inputs_of = outputs % blocks.shape[1], inputs % blocks.shape[2]
    return torch.cat([block[r][:, c] for block, r, c in zip(blocks, filters, inputs_of, strict=True)])

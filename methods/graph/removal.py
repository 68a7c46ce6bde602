"""Which channels are left of every layer once a method has narrowed a network, for any of its allocations.

A method that narrows at once removes channels in a fixed order: channel c of a site goes at level `gone_at[c]` of the
site's ladder and stays gone. What a second method costs on the narrowed network is then arithmetic on these levels.

Levels of the first method come with a column of zeros before them, (n_allocations, 1 + n_sites): the site of all
channels that stay.
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

Ints = npt.NDArray[np.int64]
KeptChannels = Callable[[str], tuple[Tensor, Tensor]]
"""Layer -> its in- and output channels that are left, ascending."""
Change = Callable[[Levels, Levels], Costs]
"""Levels of the first method (with their column of zeros) and of the second -> what the second adds to the cost of
the network that the first leaves; (n_allocations,) each, mostly below zero."""


@dataclass(frozen=True)
class ChannelRemoval:
    """Which site removes each channel on one side of a layer, and from which of its levels on."""

    site: Levels  # (C,) number of the site; 0: the channel always stays
    gone_at: Levels  # (C,) the first level at which it is removed

    def left(self, levels: Levels) -> Tensor:
        """The channels left at one allocation's levels (1 + n_sites,), ascending."""
        return torch.from_numpy(np.flatnonzero(levels[self.site] < self.gone_at))


class RemovalOrder:
    """Which site removes each channel of every layer, and in which order."""

    def __init__(self, network: nn.Module, groups: Sequence[Group], gone_at: Mapping[str, Tensor]) -> None:
        """`groups` in the order of the sites; `gone_at`: site -> level at which each of its channels goes."""
        self._network = network
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

    def kept(self, levels: Levels) -> KeptChannels:
        """What is left of each layer at the first method's levels (n_sites,)."""
        padded = np.concatenate([np.zeros(1, dtype=np.intp), levels])
        return lambda layer: (self.removal_of(layer, "in").left(padded), self.removal_of(layer, "out").left(padded))


@runtime_checkable
class Narrows(Protocol):
    """A method that can come first: `compress` narrows at once, in a fixed order."""

    def removal_order(self) -> RemovalOrder:
        """Which channels go when; after `calibrate`, if the method needs that."""

    def outline(self, allocation: Allocation) -> nn.Module:
        """A network of the allocation's widths, whichever channels it keeps."""


@runtime_checkable
class Follows(Protocol):
    """A method that can come second, on a network that another has narrowed."""

    def narrowed(self, network: nn.Module, kept: KeptChannels | None) -> Compressor:
        """The same method for that network: what was measured of the whole one holds for what is left of it.

        Its sites and settings are the same; costs are those of `change`. Without `kept` it can only unpack.
        """

    def change(self, order: RemovalOrder) -> Change:
        """What the method's settings take off any of the narrower networks."""


class ChannelTally:
    """Sums over the channels that are left, on one side of several layers, by lookup.

    Every layer has its features of shape (variants, C, K), and gives the (K,) sums of the variant asked for.
    """

    def __init__(self, sides: Sequence[ChannelRemoval], features: Sequence[Ints]) -> None:
        tables: list[Ints] = []
        layer_of, site_of, top_of, start_of, start = [], [], [], [], 0
        for layer, (side, feature) in enumerate(zip(sides, features, strict=True)):
            for site in np.unique(side.site):
                own = side.site == site
                table = _left(side.gone_at[own], feature[:, own])
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
        rows = self._start + np.minimum(levels[:, self._site], self._top)
        if variant is not None:
            rows = rows + variant[:, self._layer] * (self._top + 1)
        sums: Ints = np.add.reduceat(self._table[rows], self._first, axis=1)
        return sums


def _left(gone_at: Levels, features: Ints) -> Ints:
    """(C,), (variants, C, K) -> the sums of what is left at every level, (variants, levels, K)."""
    gone = np.zeros((features.shape[0], int(gone_at.max()) + 1, features.shape[2]), dtype=np.int64)
    for variant, feature in zip(gone, features, strict=True):
        np.add.at(variant, gone_at, feature)
    left: Ints = features.sum(1)[:, None] - gone.cumsum(1)
    return left


def count_left(sides: Sequence[ChannelRemoval]) -> ChannelTally:
    """How many channels are left."""
    return ChannelTally(sides, [np.ones((1, len(side.site), 1), dtype=np.int64) for side in sides])


def cut_table(table: Tensor, kept: tuple[Tensor, Tensor], groups: int) -> Tensor:
    """What is left of a table with an entry per kernel, (N, C / groups) -> (N left, C left / groups)."""
    inputs, outputs = (channels.to(table.device).unflatten(0, (groups, -1)) for channels in kept)
    blocks = table.unflatten(0, (groups, -1))
    rows, columns = outputs % blocks.shape[1], inputs % blocks.shape[2]
    return torch.cat([block[r][:, c] for block, r, c in zip(blocks, rows, columns, strict=True)])

"""Convolutions that kernel clustering shares, on the dense network and on any that a first method has narrowed.

The kernels of a filter (or of an input channel) that have one codeword need one convolution. On a narrowed network the
codeword is in use while one of its kernels remains: below the highest level that removes a channel with such a kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from methods.base import Costs, Levels
from methods.graph.removal import ChannelRemoval, Ints, count_remaining
from methods.tables.bitpack import bits_for
from methods.tables.codebook import swap_sides

_HELD = 1 << 24  # booleans held at a time


def count_distinct(codewords: Tensor, pruned: int) -> int:
    """The number of different codewords in each row of (R, M), summed over rows, without `pruned`."""
    ordered = codewords.sort(dim=1).values
    first = torch.ones_like(ordered[:, :1], dtype=torch.bool)
    new = torch.cat([first, ordered[:, 1:] != ordered[:, :-1]], 1)
    return int((new & (ordered != pruned)).sum())


def shared_convolutions(codewords: Tensor, groups: int, pruned: int) -> int:
    """Convolutions by single kernels that a layer (N, C / groups) needs.

    They are shared within filters or input channels, whichever needs fewer.
    """
    return min(count_distinct(codewords, pruned), count_distinct(swap_sides(codewords, groups), pruned))


@dataclass(frozen=True)
class SharedLayer:
    """A convolution whose channels may be removed, with its kernels' codewords in the dense network."""

    inputs: ChannelRemoval
    outputs: ChannelRemoval
    codewords: Sequence[npt.NDArray[np.int32]]  # (N, C / groups) of every setting but the dense one; pruned ones k·t
    groups: int


@dataclass(frozen=True)
class ClusteredSite:
    """A site: the layers of one codebook."""

    layers: Sequence[SharedLayer]
    sizes: Sequence[int]  # k of every setting but the dense one
    transforms: int
    area: int  # K


class SharedChange:
    """The change of cost by the settings: a `Change`."""

    def __init__(self, sites: Sequence[ClusteredSite], positions: Callable[[Levels], Ints]) -> None:
        """`positions`: levels of the first method -> the positions of all sites' layers, (n_allocations, n_layers)."""
        self._positions = positions
        layers = [layer for site in sites for layer in site.layers]
        self._site = np.repeat(np.arange(len(sites)), [len(site.layers) for site in sites])
        self._first = np.searchsorted(self._site, np.arange(len(sites)))
        self._inputs = count_remaining([layer.inputs for layer in layers])
        self._outputs = count_remaining([layer.outputs for layer in layers])
        self._groups = np.array([layer.groups for layer in layers])
        self._area = np.array([site.area for site in sites])
        longest = 1 + max(len(site.sizes) for site in sites)
        self._k, self._bits = np.zeros((2, len(sites), longest), dtype=np.int64)
        for i, site in enumerate(sites):
            for level, k in enumerate(site.sizes, start=1):
                self._k[i, level], self._bits[i, level] = k, bits_for(k) + bits_for(site.transforms)
        self._counters = [
            [
                _make_counter(layer, words, k * site.transforms)
                for words, k in zip(layer.codewords, site.sizes, strict=True)
            ]
            for site in sites
            for layer in site.layers
        ]  # for each layer, for each setting but the dense one

    def __call__(self, first: Levels, second: Levels) -> Costs:
        levels = second[:, self._site]  # (A, layers)
        kernels = self._outputs(first)[..., 0] * self._inputs(first)[..., 0] // self._groups
        convolutions = kernels.copy()
        for layer, counters in enumerate(self._counters):
            for level, count_convolutions in enumerate(counters, start=1):
                affected = np.flatnonzero(levels[:, layer] == level)
                if len(affected):
                    convolutions[affected, layer] = count_convolutions(first[affected])
        area, clustered = self._area[self._site], levels > 0
        flops = ((convolutions - kernels) * self._positions(first) * area).sum(1)
        bits = self._bits[self._site, levels]
        bank = self._k[np.arange(second.shape[1]), second] @ self._area  # centroids once for all layers of a site
        params = np.where(clustered, kernels - kernels * area, 0).sum(1) + bank
        stored = np.where(clustered, 2 * kernels + -(-kernels * bits // 8) - 4 * kernels * area, 0).sum(1)
        return Costs(flops, params, stored + 4 * bank)


class _RowSharing:
    """Sharing within the rows of a layer, which are its filters or its input channels.

    There is an entry for every codeword in a row: the level that removes the row, and for each site of the other side
    the level from which no channel of this site has the codeword (0: none ever has).
    """

    def __init__(
        self,
        row_removal: ChannelRemoval,
        column_removal: ChannelRemoval,
        row_index: Ints,
        column_index: Ints,
        word: Ints,
    ) -> None:
        """`row_index`, `column_index`, `word`: one entry for every kernel that is not pruned."""
        self.sites, place = np.unique(column_removal.site, return_inverse=True)
        words = int(word.max(initial=0)) + 1
        # For every codeword of every row and every site of columns: the latest level that removes one of its kernels.
        last = np.zeros((len(row_removal.site) * words, len(self.sites)), dtype=np.intp)
        np.maximum.at(last, (row_index * words + word, place[column_index]), column_removal.gone_at[column_index])
        held = np.flatnonzero(last.any(1))
        self.last = last[held]  # (P, sites)
        self.row_site, self.row_gone = row_removal.site[held // words], row_removal.gone_at[held // words]

    def count_codewords(self, levels: Levels) -> Ints:
        """(A, 1 + n_sites) -> (A,) codewords in use, summed over rows."""
        size = max(1, _HELD // max(1, self.last.size))
        counts = []
        for piece in (levels[start : start + size] for start in range(0, len(levels), size)):
            row_stays = piece[:, self.row_site] < self.row_gone
            kernel_stays = (piece[:, None, self.sites] < self.last).any(2)
            counts.append(np.count_nonzero(row_stays & kernel_stays, axis=1).astype(np.int64))
        return np.concatenate(counts)

    def count_by_level(self, tops: tuple[int, int]) -> Ints:
        """(levels of rows, levels of columns) codewords in use, where each side has a single site."""
        ends = np.zeros((tops[0] + 2, tops[1] + 2), dtype=np.int64)
        np.add.at(ends, (self.row_gone, self.last[:, 0]), 1)
        # A codeword is in use at all levels below both of its ends: count from the last levels backwards.
        in_use: Ints = ends[::-1, ::-1].cumsum(0).cumsum(1)[::-1, ::-1]
        return in_use[1:, 1:]


class _TabledCounter:
    """Convolutions by single kernels, by lookup, of a layer with inputs of one site and outputs of one site."""

    def __init__(self, layer: SharedLayer, by_filter: _RowSharing, by_input: _RowSharing) -> None:
        self._sites = int(layer.outputs.site[0]), int(layer.inputs.site[0])
        self._tops = int(layer.outputs.gone_at.max()), int(layer.inputs.gone_at.max())
        table = np.minimum(by_filter.count_by_level(self._tops), by_input.count_by_level(self._tops[::-1]).T)
        self._table = table.astype(np.int32)

    def __call__(self, levels: Levels) -> Ints:
        outputs, inputs = (np.minimum(levels[:, s], top) for s, top in zip(self._sites, self._tops, strict=True))
        return self._table[outputs, inputs].astype(np.int64)


class _DirectCounter:
    """Convolutions by single kernels of any layer, for every different combination of the levels that concern it."""

    def __init__(self, layer: SharedLayer, by_filter: _RowSharing, by_input: _RowSharing) -> None:
        self._columns = np.union1d(layer.inputs.site, layer.outputs.site)
        self._sharing = by_filter, by_input

    def __call__(self, levels: Levels) -> Ints:
        _, first_at, back = np.unique(levels[:, self._columns], axis=0, return_index=True, return_inverse=True)
        counts: Ints = np.minimum(*(sharing.count_codewords(levels[first_at]) for sharing in self._sharing))
        return counts[back.reshape(-1)]


def _make_counter(layer: SharedLayer, words: npt.NDArray[np.int32], pruned: int) -> _TabledCounter | _DirectCounter:
    output, input_in_group = np.nonzero(words != pruned)
    word = words[output, input_in_group].astype(np.int64)
    channel = output // (len(words) // layer.groups) * words.shape[1] + input_in_group
    by_filter = _RowSharing(layer.outputs, layer.inputs, output, channel, word)
    by_input = _RowSharing(layer.inputs, layer.outputs, channel, output, word)
    one_site = all(len(np.unique(side.site)) == 1 for side in (layer.inputs, layer.outputs))
    return (_TabledCounter if one_site else _DirectCounter)(layer, by_filter, by_input)

"""The work that kernel clustering shares, on the whole network and on any that another method has narrowed.

For a filter (or an input channel) kernels of one codeword need one convolution. A codeword is in use there as long as
one of its kernels is left: up to the highest level at which a channel that brings one goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from methods.base import Costs, Levels
from methods.graph.removal import ChannelRemoval, Ints, count_left
from methods.tables.bitpack import bits_for
from methods.tables.codebook import swap_sides

_HELD = 1 << 24  # booleans held at a time


def count_distinct(rows: Tensor, pruned: int) -> int:
    """How many different codewords the rows (R, M) hold, each row for itself, `pruned` not counted."""
    ordered = rows.sort(dim=1).values
    first = torch.ones_like(ordered[:, :1], dtype=torch.bool)
    new = torch.cat([first, ordered[:, 1:] != ordered[:, :-1]], 1)
    return int((new & (ordered != pruned)).sum())


def shared_convolutions(codewords: Tensor, groups: int, pruned: int) -> int:
    """2-D convolutions that a layer (N, C / groups) needs: the less of sharing within filters or input channels."""
    return min(count_distinct(codewords, pruned), count_distinct(swap_sides(codewords, groups), pruned))


@dataclass(frozen=True)
class SharedLayer:
    """A convolution whose channels may go, with the codewords that its kernels had when all were there."""

    inputs: ChannelRemoval
    outputs: ChannelRemoval
    codewords: Sequence[npt.NDArray[np.int32]]  # (N, C / groups) of every setting but the dense one; pruned ones k·t
    groups: int
    positions: int


@dataclass(frozen=True)
class Clustered:
    """A site: layers on one codebook."""

    layers: Sequence[SharedLayer]
    sizes: Sequence[int]  # k of every setting but the dense one
    transforms: int
    area: int  # Kh·Kw


class SharedChange:
    """What the settings take off: a `Change`."""

    def __init__(self, sites: Sequence[Clustered]) -> None:
        layers = [layer for site in sites for layer in site.layers]
        self._site = np.repeat(np.arange(len(sites)), [len(site.layers) for site in sites])
        self._first = np.searchsorted(self._site, np.arange(len(sites)))
        self._inputs = count_left([layer.inputs for layer in layers])
        self._outputs = count_left([layer.outputs for layer in layers])
        self._groups = np.array([layer.groups for layer in layers])
        self._positions = np.array([layer.positions for layer in layers])
        self._area = np.array([site.area for site in sites])
        longest = 1 + max(len(site.sizes) for site in sites)
        self._k, self._bits = np.zeros((2, len(sites), longest), dtype=np.int64)
        for row, site in enumerate(sites):
            for level, k in enumerate(site.sizes, start=1):
                self._k[row, level], self._bits[row, level] = k, bits_for(k) + bits_for(site.transforms)
        self._work = [
            [_work(layer, words, k * site.transforms) for words, k in zip(layer.codewords, site.sizes, strict=True)]
            for site in sites
            for layer in site.layers
        ]

    def __call__(self, first: Levels, own: Levels) -> Costs:
        levels = own[:, self._site]  # (A, layers)
        kernels = self._outputs(first)[..., 0] * self._inputs(first)[..., 0] // self._groups
        convolutions = kernels.copy()
        for layer, works in enumerate(self._work):
            for level, work in enumerate(works, start=1):
                rows = np.flatnonzero(levels[:, layer] == level)
                if len(rows):
                    convolutions[rows, layer] = work(first[rows])
        area, clustered = self._area[self._site], levels > 0
        flops = ((convolutions - kernels) * self._positions * area).sum(1)
        bits = self._bits[self._site, levels]
        bank = self._k[np.arange(own.shape[1]), own] @ self._area  # centroids once for all layers of a site
        params = np.where(clustered, kernels - kernels * area, 0).sum(1) + bank
        stored = np.where(clustered, 2 * kernels + -(-kernels * bits // 8) - 4 * kernels * area, 0).sum(1)
        return Costs(flops, params, stored + 4 * bank)


class _Way:
    """Sharing within the rows of a layer: its filters, or its input channels.

    One entry for every codeword that a row holds: the row's own fate, and per site of the other side the level from
    which the codeword is not brought by that site any more (0: it never was).
    """

    def __init__(self, rows: ChannelRemoval, columns: ChannelRemoval, row: Ints, column: Ints, word: Ints) -> None:
        """`row`, `column`, `word`: of every kernel that is not pruned."""
        self.sites, place = np.unique(columns.site, return_inverse=True)
        words = int(word.max(initial=0)) + 1
        last = np.zeros((len(rows.site) * words, len(self.sites)), dtype=np.intp)
        np.maximum.at(last, (row * words + word, place[column]), columns.gone_at[column])
        held = np.flatnonzero(last.any(1))
        self.last = last[held]  # (P, sites)
        self.row_site, self.row_gone = rows.site[held // words], rows.gone_at[held // words]

    def count(self, levels: Levels) -> Ints:
        """Codewords in use, summed over rows: (A, 1 + n_sites) -> (A,)."""
        piece = max(1, _HELD // max(1, self.last.size))
        found = [self._count(levels[start : start + piece]) for start in range(0, len(levels), piece)]
        return np.concatenate(found)

    def _count(self, levels: Levels) -> Ints:
        alive = levels[:, self.row_site] < self.row_gone
        brought = (levels[:, None, self.sites] < self.last).any(2)
        return np.count_nonzero(alive & brought, axis=1).astype(np.int64)

    def table(self, tops: tuple[int, int]) -> Ints:
        """The same for every level of the one site on either side: (levels of rows, levels of columns)."""
        found = np.zeros((tops[0] + 2, tops[1] + 2), dtype=np.int64)
        np.add.at(found, (self.row_gone, self.last[:, 0]), 1)
        after: Ints = found[::-1, ::-1].cumsum(0).cumsum(1)[::-1, ::-1]
        return after[1:, 1:]


class _Lookup:
    """2-D convolutions of a layer whose in- and outputs go with one site each (or stay)."""

    def __init__(self, layer: SharedLayer, by_filter: _Way, by_input: _Way) -> None:
        self._sites = int(layer.outputs.site[0]), int(layer.inputs.site[0])
        self._tops = int(layer.outputs.gone_at.max()), int(layer.inputs.gone_at.max())
        table = np.minimum(by_filter.table(self._tops), by_input.table(self._tops[::-1]).T)
        self._table = table.astype(np.int32)

    def __call__(self, levels: Levels) -> Ints:
        outputs, inputs = (np.minimum(levels[:, s], top) for s, top in zip(self._sites, self._tops, strict=True))
        return self._table[outputs, inputs].astype(np.int64)


class _Counted:
    """The same of any layer, counted anew for every different combination of the levels that concern it."""

    def __init__(self, layer: SharedLayer, by_filter: _Way, by_input: _Way) -> None:
        self._columns = np.union1d(layer.inputs.site, layer.outputs.site)
        self._ways = by_filter, by_input

    def __call__(self, levels: Levels) -> Ints:
        _, rows, back = np.unique(levels[:, self._columns], axis=0, return_index=True, return_inverse=True)
        counts: Ints = np.minimum(*(way.count(levels[rows]) for way in self._ways))
        return counts[back.reshape(-1)]


def _work(layer: SharedLayer, words: npt.NDArray[np.int32], pruned: int) -> _Lookup | _Counted:
    row, column = np.nonzero(words != pruned)
    word = words[row, column].astype(np.int64)
    channel = row // (len(words) // layer.groups) * words.shape[1] + column
    by_filter = _Way(layer.outputs, layer.inputs, row, channel, word)
    by_input = _Way(layer.inputs, layer.outputs, channel, row, word)
    alone = all(len(np.unique(side.site)) == 1 for side in (layer.inputs, layer.outputs))
    return (_Lookup if alone else _Counted)(layer, by_filter, by_input)

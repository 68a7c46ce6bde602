"""The cost of a network as arithmetic on the channels that its groups keep.

One fused multiply-add is one FLOP. FLOPs and parameters are sums of products of widths: outputs × inputs × positions of
a product that applies a weight (`flow/product_widths.py`), the sizes of a parameter's dimensions. A width is affine in
the channels: a sum over groups (concatenations), each weighted by how often its channels occur (flattening), plus a
constant.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from torch import nn

from methods.base import Cost, Costs, Levels
from methods.graph.channels import Group
from methods.graph.flow.product_widths import IndexWidth, ProductWidths
from methods.graph.narrow import LAYERS, Side, channels_of, is_depthwise

Floats = npt.NDArray[np.float64]
SlotWidths = Mapping[tuple[str, Side, int | None], IndexWidth]
"""Module and side, or bare parameter and dimension -> how many channels it has there."""


Terms = Sequence[tuple[float, Sequence[IndexWidth]]]
"""Amounts of the dense network, each with the widths that it is proportional to."""


class _WidthSums:
    """Sums of amounts that are proportional to products of widths, for any channels that the groups keep."""

    def __init__(self, sums: Sequence[Terms], groups: Sequence[Group]) -> None:
        widths = dict.fromkeys(width for terms in sums for _, factors in terms for width in factors)
        row_of = {width: row for row, width in enumerate(widths, start=1)}
        group_number = {group.name: number for number, group in enumerate(groups)}
        # Row 0 is 1, for products of fewer widths than others have.
        self._per_channel, self._fixed = np.zeros((len(widths) + 1, len(groups))), np.ones((len(widths) + 1, 1))
        for width, row in row_of.items():
            for group, number in width.shares:
                if group in group_number:  # other groups keep all channels
                    self._per_channel[row, group_number[group]] = number
            full = self._per_channel[row] @ np.array([group.channels for group in groups], dtype=np.float64)
            self._fixed[row] = width.size - full
        # Many amounts go with the same widths: the weights of a layer, its FLOPs, the norms of one width.
        products: dict[tuple[int, ...], int] = {}
        entries: list[tuple[int, int, float]] = []
        for position, terms in enumerate(sums):
            for amount, factors in terms:
                rows = tuple(sorted(row_of[width] for width in factors))
                product = products.setdefault(rows, len(products))
                entries.append((position, product, amount / math.prod(width.size for width in factors)))
        self._amounts = np.zeros((len(sums), len(products)))
        for position, product, amount in entries:
            self._amounts[position, product] += amount
        self._rows = np.zeros((max(map(len, products), default=0), len(products)), dtype=np.intp)
        for rows, product in products.items():
            self._rows[: len(rows), product] = rows

    def __call__(self, channels: Floats) -> Floats:
        """(n_allocations, n_sums) where group i keeps `channels[:, i]` channels, (n_allocations, n_groups)."""
        widths = self._per_channel @ channels.T + self._fixed
        products = np.ones((self._rows.shape[1], len(channels)))
        for rows in self._rows:
            products *= widths[rows]
        sums: Floats = (self._amounts @ products).T
        return sums


class WidthCost:
    """FLOPs, params and bytes of any widths.

    Attributes:
        ladders: per group, the channels that each of its levels keeps.
        layers: names of the convolutions and linear modules that evaluation calls.
        network: the one that has these layers.
        dense: the cost of the dense network.
    """

    def __init__(
        self,
        network: nn.Module,
        groups: Sequence[Group],
        ladders: Sequence[Sequence[int]],
        products: Sequence[ProductWidths],
    ) -> None:
        self.network = network
        self.ladders = [np.asarray(ladder, dtype=np.float64) for ladder in ladders]
        slot_widths = _widths_of_slots(network, groups)
        modules = {name: module for name, module in network.named_modules() if isinstance(module, LAYERS)}
        by_layer: dict[str, list[tuple[float, Sequence[IndexWidth]]]] = {}
        for product in products:
            by_layer.setdefault(product.layer, []).append((product.flops, product.widths))
        self.layers = tuple(name for name in modules if name in by_layer)
        self._applied = tuple(by_layer)
        flops = [(product.flops, product.widths) for product in products]
        self._costs = _WidthSums([flops, list(_parameter_terms(network, slot_widths))], groups)
        self._flops = _WidthSums(list(by_layer.values()), groups)
        self._written = _WidthSums([[(product.written, product.written_widths) for product in products]], groups)
        self._in, self._out = (
            _WidthSums([[_side_term(name, modules[name], side, slot_widths)] for name in self.layers], groups)
            for side in ("in", "out")
        )
        full = np.array([[group.channels for group in groups]], dtype=np.float64)
        self.dense = Cost(*(int(column[0]) for column in self.of_widths(full)))

    def __call__(self, levels: Levels) -> Costs:
        """Costs of the allocations in `levels`, (n_allocations, n_sites)."""
        return self.of_widths(self.kept_channels(levels))

    def of_widths(self, channels: Floats) -> Costs:
        """Costs when group i keeps `channels[:, i]` channels, (n_allocations, n_groups)."""
        flops, params = np.rint(self._costs(channels)).astype(np.int64).T
        return Costs(flops, params, 4 * params)

    def layer_widths(self, levels: Levels) -> tuple[Floats, Floats]:
        """Input and output channels of all `layers`, each (n_allocations, n_layers); depthwise ones have one input."""
        channels = self.kept_channels(levels)
        return self._in(channels), self._out(channels)

    def layer_flops(self, channels: Floats) -> dict[str, Floats]:
        """FLOPs of every layer, bare weights among them, (n_allocations,), for `channels` (n_allocations, n_groups)."""
        return dict(zip(self._applied, self._flops(channels).T, strict=True))

    def written_elements(self, levels: Levels) -> Floats:
        """How many elements the results of all products have together, (n_allocations,)."""
        return self._written(self.kept_channels(levels))[:, 0]

    def position_shares(self, levels: Levels) -> Floats:
        """The share of its positions that each of `layers` still works at, (n_allocations, n_layers).

        It falls where channels of a group are positions of a layer (token mixing, channels folded into the batch).
        """
        dense = np.zeros((1, len(self.ladders)), dtype=np.intp)
        both = np.concatenate([dense, levels])
        inputs, outputs = self.layer_widths(both)
        flops = self.layer_flops(self.kept_channels(both))
        per_weight = np.stack([flops[name] for name in self.layers], axis=1) / (inputs * outputs)
        shares: Floats = per_weight[1:] / per_weight[0]
        return shares

    def kept_channels(self, levels: Levels) -> Floats:
        """The channels that groups keep at the levels of their ladders, (n_allocations, n_groups)."""
        channels = np.empty(levels.shape, dtype=np.float64)
        for site, ladder in enumerate(self.ladders):
            channels[:, site] = ladder[levels[:, site]]
        return channels


def _widths_of_slots(network: nn.Module, groups: Sequence[Group]) -> SlotWidths:
    """The width of every side of a module, and of every dimension of a bare parameter, where groups have channels."""
    modules, parameters = dict(network.named_modules()), dict(network.named_parameters())
    shares: dict[tuple[str, Side, int | None], list[tuple[str, float]]] = {}
    for group in groups:
        for slots in group.slots:
            # Whole numbers, or fractions where only some of the group's channels reach the module.
            share = group.name, len(slots.index) / group.channels
            shares.setdefault((slots.name, slots.side, slots.dim), []).append(share)
    widths: dict[tuple[str, Side, int | None], IndexWidth] = {}
    for (name, side, dim), pairs in shares.items():
        if dim is None:
            widths[name, side, dim] = IndexWidth(channels_of(modules[name], side), tuple(pairs))
        elif name in parameters:
            widths[name, side, dim] = IndexWidth(parameters[name].shape[dim], tuple(pairs))
    return widths


def _side_term(name: str, layer: nn.Module, side: Side, slot_widths: SlotWidths) -> tuple[float, list[IndexWidth]]:
    """The channels of a layer on one side."""
    if side == "in" and is_depthwise(layer):
        return 1.0, []  # each filter sees one channel, however many there are
    width = slot_widths.get((name, side, None))
    return float(channels_of(layer, side)), [] if width is None else [width]


def _parameter_terms(network: nn.Module, slot_widths: SlotWidths) -> Iterator[tuple[float, list[IndexWidth]]]:
    """The size of every parameter, with the widths that it is proportional to; shared parameters once."""
    modules = dict(network.named_modules())
    sides_of: dict[str, list[tuple[str, Side, int | None]]] = {}
    for place in slot_widths:
        sides_of.setdefault(place[0], []).append(place)
    for name, parameter in network.named_parameters():
        owner, _, leaf = name.rpartition(".")
        places = list(sides_of.get(name, ()))
        for place in sides_of.get(owner, ()):
            # Of a convolution or linear layer, the weight alone has inputs; what it computes its weight of is bare.
            of_layer = isinstance(modules[owner], LAYERS)
            if place[2] is None and (not of_layer or leaf == "weight" or (leaf == "bias" and place[1] == "out")):
                places.append(place)
        yield parameter.numel(), [slot_widths[place] for place in places]

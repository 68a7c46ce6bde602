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


class _WidthProducts:
    """Amounts that are proportional to products of widths, for any channels that the groups keep."""

    def __init__(self, terms: Sequence[tuple[float, Sequence[IndexWidth]]], groups: Sequence[Group]) -> None:
        """`terms`: each the amount of the dense network, and its widths."""
        group_number = {group.name: number for number, group in enumerate(groups)}
        columns = {width: number for number, width in enumerate(dict.fromkeys(w for _, ws in terms for w in ws), 1)}
        # Column 0 is 1: terms have different numbers of widths.
        self._per_channel, self._fixed = np.zeros((len(groups), len(columns) + 1)), np.ones(len(columns) + 1)
        for width, column in columns.items():
            for group, number in width.shares:
                if group in group_number:  # other groups keep all channels
                    self._per_channel[group_number[group], column] = number
            full = np.array([group.channels for group in groups], dtype=np.float64) @ self._per_channel[:, column]
            self._fixed[column] = width.size - full
        longest = max((len(widths) for _, widths in terms), default=0)
        self._columns = np.zeros((longest, len(terms)), dtype=np.intp)
        self._factor = np.array([amount / math.prod(w.size for w in widths) for amount, widths in terms])
        for term, (_, widths) in enumerate(terms):
            self._columns[: len(widths), term] = [columns[width] for width in widths]

    def __call__(self, channels: Floats) -> Floats:
        """(n_allocations, n_terms) where group i keeps `channels[:, i]` channels, (n_allocations, n_groups)."""
        widths = channels @ self._per_channel + self._fixed
        amounts = np.broadcast_to(self._factor, (len(channels), len(self._factor))).copy()
        for columns in self._columns:
            amounts *= widths[:, columns]
        return amounts


class WidthCost:
    """FLOPs, params and bytes of any widths.

    Attributes:
        ladders: per group, the channels that each of its levels keeps.
        layers: names of the convolutions and linear modules that evaluation calls.
        dense: the cost of the dense network.
    """

    def __init__(
        self,
        network: nn.Module,
        groups: Sequence[Group],
        ladders: Sequence[Sequence[int]],
        products: Sequence[ProductWidths],
    ) -> None:
        self.ladders = [np.asarray(ladder, dtype=np.float64) for ladder in ladders]
        slot_widths = _widths_of_slots(network, groups)
        modules = {name: module for name, module in network.named_modules() if isinstance(module, LAYERS)}
        applied = {product.layer for product in products}
        self.layers = tuple(name for name in modules if name in applied)
        self._product_layers = [product.layer for product in products]
        self._flops = _WidthProducts([(product.flops, product.widths) for product in products], groups)
        self._written = _WidthProducts([(p.written, p.written_widths) for p in products], groups)
        self._params = _WidthProducts(list(_parameter_terms(network, slot_widths)), groups)
        self._in, self._out = (
            _WidthProducts([_side_term(name, modules[name], side, slot_widths) for name in self.layers], groups)
            for side in ("in", "out")
        )
        full = np.array([[group.channels for group in groups]], dtype=np.float64)
        self.dense = Cost(*(int(column[0]) for column in self.of_widths(full)))

    def __call__(self, levels: Levels) -> Costs:
        """Costs of the allocations in `levels`, (n_allocations, n_sites)."""
        return self.of_widths(self.kept_channels(levels))

    def of_widths(self, channels: Floats) -> Costs:
        """Costs when group i keeps `channels[:, i]` channels, (n_allocations, n_groups)."""
        flops, params = (np.rint(terms(channels).sum(1)).astype(np.int64) for terms in (self._flops, self._params))
        return Costs(flops, params, 4 * params)

    def layer_widths(self, levels: Levels) -> tuple[Floats, Floats]:
        """Input and output channels of all `layers`, each (n_allocations, n_layers); depthwise ones have one input."""
        channels = self.kept_channels(levels)
        return self._in(channels), self._out(channels)

    def layer_flops(self, channels: Floats) -> dict[str, Floats]:
        """FLOPs of every layer, bare weights among them, (n_allocations,), for `channels` (n_allocations, n_groups)."""
        flops: dict[str, Floats] = {}
        for layer, column in zip(self._product_layers, self._flops(channels).T, strict=True):
            flops[layer] = flops[layer] + column if layer in flops else column
        return flops

    def written_elements(self, levels: Levels) -> Floats:
        """How many elements the results of all products have together, (n_allocations,)."""
        return self._written(self.kept_channels(levels)).sum(1)

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

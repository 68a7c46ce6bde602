"""How the products that apply weights shrink with the channels of groups, and which side of a weight each dimension is.

A product multiplies as often as it has combinations of its indices. The labels along an index tell which of its entries
go with a channel, whether it counts inputs, outputs or positions: its FLOPs are a product of widths, each of which is
affine in the channels that groups keep.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from methods.graph.flow.call import Planes
from methods.graph.flow.labels import FREE, Dimension, varying_dims
from methods.graph.narrow import Side
from methods.graph.products import SUMMED, AttentionCalls, Source, WeightSources, read_products
from models.execution.tensor_leaves import tensor_leaves

_SIDES: dict[str, Side] = {"n": "out", "m": "out", "k": "in"}


@dataclass(frozen=True)
class LabelledOperand:
    """One operand of a product.

    Attributes:
        indices: the letters of its dimensions.
        planes: its labels.
        sources: the layers that it is made of; None for an activation.
    """

    indices: str
    planes: Planes
    sources: tuple[Source, ...] | None


@dataclass(frozen=True)
class LabelledProduct:
    """A product that applies the weight of a layer.

    Attributes:
        modulated: whether activations have scaled or mixed the weight before.
    """

    layer: str
    flops: int
    written: int  # elements of the result
    operands: tuple[LabelledOperand, LabelledOperand]
    modulated: bool = False

    @property
    def prepares_weights(self) -> bool:
        """Whether no input reaches it."""
        return all(operand.sources is not None for operand in self.operands)


class ProductRecorder:
    """Keeps the products of a forward pass while it is on."""

    def __init__(self, network: nn.Module, path: list[str]) -> None:
        self.sources = WeightSources(network)
        self.recorded: list[LabelledProduct] = []
        self.attention = AttentionCalls()
        self.on = False
        self._path = path

    def note_call(self, name: str, args: Any, kwargs: Any, result: Any, planes_of: Callable[[Tensor], Planes]) -> None:
        """Note an operator that has run."""
        if not self.on:
            return
        for product in read_products(name, args, result):
            layers = self.sources.applied_layers(product, self._path[-1])
            if layers and not self.attention.running and not self.sources.measures_weights(product):
                left, right = (
                    LabelledOperand(indices, planes_of(tensor), self.sources.weight_sources(product, tensor))
                    for tensor, indices in product.operands
                )
                modulated = right.sources is not None and self.sources.sources_of(product.right) is None
                self.recorded.append(
                    LabelledProduct(layers[0], product.flops, product.written, (left, right), modulated)
                )
        self.sources.follow(name, tensor_leaves((args, kwargs)), tensor_leaves(result))


@dataclass(frozen=True)
class IndexWidth:
    """The number of entries along indices of a product: each channel of a group counts `per_channel` of them.

    Attributes:
        shares: (group, entries per channel); all other entries always stay.
    """

    size: int
    shares: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class ProductWidths:
    """The FLOPs of a product of the dense network, and the widths that they are proportional to.

    Attributes:
        written: elements of the result.
        summed: of each width, whether it is summed over, so that the result does not shrink with it.
    """

    layer: str
    flops: int
    written: int
    widths: tuple[IndexWidth, ...]
    summed: tuple[bool, ...]

    def groups(self, *, summed: bool) -> set[str]:
        """The groups with channels along the indices that are summed over, or along those of the result."""
        widths = [width for width, is_summed in zip(self.widths, self.summed, strict=True) if is_summed == summed]
        return {group for width in widths for group, _ in width.shares}

    @property
    def written_widths(self) -> list[IndexWidth]:
        """The widths of the result."""
        return [width for width, summed in zip(self.widths, self.summed, strict=True) if not summed]


def widths_of_products(
    products: Iterable[LabelledProduct], components: Tensor, groups: Sequence[tuple[str, list[int]]]
) -> list[ProductWidths]:
    """The widths of every product.

    Args:
        components: (number of labels,) the component of each label.
        groups: name and components of every group, a component for each channel.
    """
    group_of = torch.full((len(components),), -1)  # of components
    for number, (_, members) in enumerate(groups):
        group_of[members] = number
    names = [(name, len(members)) for name, members in groups]
    results = []
    for labelled in products:
        cuts = _distinct_cuts(labelled.operands, components, group_of)
        widths = tuple(_count_entries(ids, group_of, names) for _, ids in cuts)
        summed = tuple(set(indices) <= SUMMED for indices, _ in cuts)
        results.append(ProductWidths(labelled.layer, labelled.flops, labelled.written, widths, summed))
    return results


_UNTOLD = -2  # of an entry without a label (zeros, padding): what it goes with is told elsewhere


def _distinct_cuts(
    operands: Iterable[LabelledOperand], components: Tensor, group_of: Tensor
) -> list[tuple[str, Tensor]]:
    """The indices along which groups' channels go, with the component of each entry; negative for one that stays.

    Both operands tell the same of an index that they share, but where one has no labels.
    """
    cuts: list[tuple[str, Tensor]] = []
    for operand in operands:
        for plane in operand.planes:
            ids = components[plane.clamp_min(0)]
            ids = torch.where((plane < 0) | (group_of[ids] < 0), -1, ids)
            ids = _compact_told(torch.where(plane == FREE, _UNTOLD, ids))
            dims = sorted(varying_dims(ids), key=lambda d: operand.indices[d])
            indices = "".join(operand.indices[d] for d in dims)
            if not dims or "." in indices:
                continue
            ids = ids.permute(*dims, *(d for d in range(ids.dim()) if d not in dims)).flatten(len(dims) - 1)
            for number, (same_indices, cut) in enumerate(cuts):
                if same_indices == indices and bool(((cut == ids) | (cut == _UNTOLD) | (ids == _UNTOLD)).all()):
                    cuts[number] = indices, torch.maximum(cut, ids)
                    break
            else:
                cuts.append((indices, ids))
    return cuts


def _compact_told(ids: Tensor) -> Tensor:
    """The ids with size 1 along every dimension in which those that are told are constant (an unfolded image)."""
    for d, size in enumerate(ids.shape):
        told = ids.amax(d, keepdim=True)
        if size > 1 and bool(((ids == told) | (ids == _UNTOLD)).all()):
            ids = told
    return ids


def _count_entries(ids: Tensor, group_of: Tensor, groups: Sequence[tuple[str, int]]) -> IndexWidth:
    members = group_of[ids[ids >= 0]]
    counts = torch.bincount(members, minlength=len(groups)).tolist()
    shares = [(name, count / channels) for (name, channels), count in zip(groups, counts, strict=True) if count]
    return IndexWidth(ids.numel(), tuple(shares))


def sides_of_weights(
    products: Sequence[LabelledProduct], dimensions: Sequence[Dimension], components: Tensor, layers: Iterable[str]
) -> dict[int, Side]:
    """The side of each dimension of a bare weight, by the dimension's first label: how products apply it says so.

    `F.linear(x, w)` has its outputs along dimension 0, `x @ w` along dimension 1, a bank of matrices along the last.

    Args:
        layers: those that products apply, bare weights among them.
    """
    sides: dict[int, Side] = {}
    applied = [labelled for labelled in products if not labelled.prepares_weights]
    applied.sort(key=lambda labelled: not labelled.modulated)  # to mix weights, code may flatten their sides to one
    prepared = [labelled for labelled in products if labelled.prepares_weights]
    _sides_by_labels(applied, dimensions, sides)
    by_name: dict[str, list[Dimension]] = {}
    for dimension in dimensions:
        by_name.setdefault(dimension.name, []).append(dimension)
    _sides_by_components(applied, by_name, components, sides)
    for members in by_name.values():
        told = [dimension for dimension in members if dimension.first in sides]
        if len(members) == 2 and len(told) == 1:  # of two weights that are multiplied, what one passes to the other
            rest = next(dimension for dimension in members if dimension not in told)
            sides[rest.first] = "in" if sides[told[0].first] == "out" else "out"
    _sides_by_labels(prepared, dimensions, sides)
    for name in layers:
        members = by_name.get(name, [])
        if not any(dimension.first in sides for dimension in members):  # fused operators: outputs come first
            sides.update({dimension.first: "out" if dimension.dim == 0 else "in" for dimension in members})
    return sides


def _weight_planes(products: Iterable[LabelledProduct]) -> Iterator[tuple[Side, Tensor, tuple[Source, ...]]]:
    """The labels along one side of an applied weight, and the weights that it is made of."""
    for labelled in products:
        for operand in labelled.operands:
            for plane in operand.planes if operand.sources else ():
                kinds = {_SIDES.get(operand.indices[d]) for d in varying_dims(plane)}
                if len(kinds) == 1 and (side := kinds.pop()) is not None:
                    yield side, plane[plane > 0], operand.sources or ()


def _sides_by_labels(
    products: Iterable[LabelledProduct], dimensions: Sequence[Dimension], sides: dict[int, Side]
) -> None:
    firsts = [dimension.first for dimension in dimensions]
    for side, labels, _ in _weight_planes(products):
        if len(labels):
            sides.setdefault(firsts[bisect_right(firsts, int(labels[0])) - 1], side)


def _sides_by_components(
    products: Iterable[LabelledProduct],
    by_name: Mapping[str, Sequence[Dimension]],
    components: Tensor,
    sides: dict[int, Side],
) -> None:
    """Where a scale's labels stand for those of the weight that it has multiplied."""
    for side, labels, sources in _weight_planes(products):
        present = components[labels].unique()
        for name in (name for source in sources for name in source.names):
            for dimension in by_name.get(name, ()):
                labels_there = components[dimension.first : dimension.first + dimension.size]
                if dimension.first not in sides and bool(torch.isin(labels_there, present).any()):
                    sides[dimension.first] = side

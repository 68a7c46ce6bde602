"""Where labels stand in a network: at sides of modules, and along dimensions of bare tensors."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch import nn

from methods.graph.channels import tied_parameters
from methods.graph.flow.channel_flow import ChannelFlow
from methods.graph.flow.labels import NEW, Dimension
from methods.graph.narrow import LAYERS, SHAPED_NORMS, Norm, Side, is_depthwise, is_transposed_in_groups, layer_dims


class Place(NamedTuple):
    """Where labels of a dimension stand in the network: a side of a module, or a dimension of a bare tensor.

    A bare weight has a side too: `in` where it reads channels, `out` where it or another tensor goes along with them.
    """

    name: str
    side: Side
    dim: int | None


def place_of(dimension: Dimension, modules: dict[str, nn.Module], sides: Mapping[int, Side]) -> Place | None:
    """None for a dimension that follows another one of its module (biases, statistics, grouped weights' inputs), and
    for one of a tensor that code makes.

    Args:
        sides: of bare weights' dimensions, by their first labels.
    """
    if dimension.dim == NEW:
        return None
    if isinstance(dimension.dim, str):
        if dimension.dim == "in" and is_depthwise(modules[dimension.name]):
            return None
        return Place(dimension.name, "in" if dimension.dim == "in" else "out", None)
    owner, _, leaf = dimension.name.rpartition(".")
    module = modules.get(owner)
    if isinstance(module, LAYERS) and leaf == "weight" and "weight" in module._parameters:
        return _place_in_layer(module, owner, dimension)
    if isinstance(module, LAYERS) and leaf == "bias" and "weight" in module._parameters:
        return None
    if isinstance(module, (Norm, nn.GroupNorm)) or (isinstance(module, nn.PReLU) and module.num_parameters > 1):
        return Place(owner, "out", None)
    if isinstance(module, SHAPED_NORMS) and math.prod(module.normalized_shape) == dimension.size:
        return Place(owner, "out", None)
    return Place(dimension.name, sides.get(dimension.first, "out"), dimension.dim)


def _place_in_layer(module: nn.Module, owner: str, dimension: Dimension) -> Place | None:
    out_dim, in_dim = layer_dims(module)
    in_groups, transposed = getattr(module, "groups", 1) > 1, getattr(module, "transposed", False)
    # Of a weight in groups, one dimension stands for channels of every group: sides of the module tell those.
    if dimension.dim == out_dim and not is_transposed_in_groups(module):
        return Place(owner, "out", None)
    if dimension.dim == in_dim and (not in_groups or transposed):
        return Place(owner, "in", None)
    return None


class LabelPlaces:
    """Where the labels of every component stand.

    Attributes:
        indices: component -> place -> indices there.
        produced: layer -> the components of its output channels; layers in the order of execution.
        first_labels: place -> the label of its index 0.
    """

    def __init__(
        self,
        flow: ChannelFlow,
        network: nn.Module,
        components: np.ndarray,
        order: Mapping[str, int],
        sides: Mapping[int, Side],
    ) -> None:
        self.indices: defaultdict[int, defaultdict[Place, set[int]]] = defaultdict(lambda: defaultdict(set))
        self.first_labels: dict[Place, int] = {}
        produced: dict[str, list[int]] = {}
        noted: dict[Place, list[int]] = {}
        modules = dict(network.named_modules())
        for dimension in _at_all_places(flow.labels.dimensions, network):
            place = place_of(dimension, modules, sides)
            if place is None:
                continue
            self.first_labels.setdefault(place, dimension.first)
            ids = components[dimension.first : dimension.first + dimension.size].tolist()
            if ids != noted.get(place):  # a norm's scales, shifts and statistics mostly say the same
                noted[place] = ids
                for index, component in enumerate(ids):
                    self.indices[component][place].add(index)
            # Further dimensions of a bare weight (a bank's matrices) go along with channels, but make none.
            makes_channels = place.side == "out" and (place.dim is None or dimension.first in sides)
            if makes_channels and place.name in order:
                produced.setdefault(place.name, []).extend(ids)
        self.produced = dict(sorted(produced.items(), key=lambda item: order[item[0]]))


def _at_all_places(dimensions: Iterable[Dimension], network: nn.Module) -> Iterator[Dimension]:
    """Every dimension under each name of its parameter, which several modules may hold."""
    tied = {names[0]: names for names in tied_parameters(network)}
    for dimension in dimensions:
        if isinstance(dimension.dim, int):
            names = tied.get(dimension.name, [dimension.name])
        else:  # the sides of a module go with its weight
            weights = tied.get(f"{dimension.name}.weight", [])
            names = [name.removesuffix(".weight") for name in weights] or [dimension.name]
        yield from (replace(dimension, name=name) for name in names)

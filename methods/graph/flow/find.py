"""Coupled channel groups from labels: components of labels that are free, gathered by where they stand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from methods.base import copy_network
from methods.graph.channels import Group, Slots, tied_parameters
from methods.graph.flow.labels import FREE, Dimension, varying_dims
from methods.graph.flow.sizes import ALWAYS, CallNumbers
from methods.graph.flow.trace import ChannelFlow, trace_channels
from methods.graph.narrow import Conv, Norm, Side, is_depthwise

LAYERS = (Conv, nn.Linear)


def settle_splits(flow: ChannelFlow) -> np.ndarray:
    """The components, after a dimension that a view took apart has lost the freedom to be cut anyhow.

    Either its leading parts go whole (channels of a pixel shuffle), which uses have united by then; or its last part
    shrinks, in all leading parts alike (groups of a channel shuffle, heads): the choice where uses leave it open.
    """
    united: list[Tensor] = []
    components = flow.labels.components()
    pending = list(flow.splits)
    while pending:
        still = []
        for plane in pending:
            dims = sorted(varying_dims(plane))
            ids = torch.from_numpy(components)[plane.clamp_min(0)]
            trailing, leading = dims[1:], dims[:-1]
            if _is_constant(ids, trailing) or _is_constant(ids, leading):
                continue
            first = plane
            for d in leading:
                first = first.narrow(d, 0, 1)
            pairs = torch.stack(torch.broadcast_tensors(plane, first), -1).reshape(-1, 2)
            united.append(pairs[(pairs > 0).all(1)])
            still.append(plane)
        if not still:
            break
        components = flow.labels.components(united)
        pending = [plane for plane in pending if not any(plane is other for other in still)]
    return components


def _is_constant(ids: Tensor, dims: Iterable[int]) -> bool:
    return all(bool((ids == ids.narrow(d, 0, 1)).all()) for d in dims)


@dataclass(frozen=True)
class Place:
    """Where labels of a dimension stand in the network: a side of a module, or a dimension of a bare tensor."""

    name: str
    side: Side
    dim: int | None


def place_of(dimension: Dimension, modules: dict[str, nn.Module]) -> Place | None:
    """None for a dimension that follows another one of its module (biases, statistics, grouped weights' inputs)."""
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
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        return Place(owner, "out", None)
    return Place(dimension.name, "out", dimension.dim)


def _place_in_layer(module: nn.Module, owner: str, dimension: Dimension) -> Place | None:
    out_dim = 1 if getattr(module, "transposed", False) and not is_depthwise(module) else 0
    if dimension.dim == out_dim:
        return Place(owner, "out", None)
    if dimension.dim == 1 - out_dim and getattr(module, "groups", 1) == 1:
        return Place(owner, "in", None)
    return None


@dataclass(frozen=True)
class TracedGroups:
    """What the channel flow found in a network.

    Attributes:
        groups: in the order of their first producer.
        reasons: why producers' other channels stay.
        numbers: widths that the code holds.
        multiplies_activations: whether activations are multiplied with each other: such a product takes channels in as
            a layer does, and only labels tell which.
    """

    groups: list[Group]
    reasons: dict[str, str]
    numbers: CallNumbers
    multiplies_activations: bool
    _components: np.ndarray
    _first_labels: Mapping[Place, int]

    def labels_of(self, removed: Iterable[tuple[Slots, Tensor]]) -> Tensor:
        """(number of labels,) whether a label belongs to removed channels, given by their indices in slots."""
        labels = [self._first_labels[Place(slots.name, slots.side, slots.dim)] + index for slots, index in removed]
        components = self._components[torch.cat(labels).numpy()]
        return torch.from_numpy(np.isin(self._components, components))


def groups_of_flow(flow: ChannelFlow, network: nn.Module, uses: Iterable[str]) -> TracedGroups:
    """The coupled groups by the labels of a trace.

    Args:
        uses: the layers of `trace_layers`, bare weights among them, in the order of execution.
    """
    order = {name: position for position, name in enumerate(uses)}
    components = settle_splits(flow)
    reasons = flow.labels.pinned(components)
    modules = dict(network.named_modules())
    where: dict[int, dict[Place, set[int]]] = {}  # component -> place -> indices
    producers: dict[str, list[int]] = {}
    first_labels: dict[Place, int] = {}
    for dimension in _at_all_places(flow.labels.dimensions, network):
        place = place_of(dimension, modules)
        if place is None:
            continue
        first_labels.setdefault(place, dimension.first)
        ids = components[dimension.first : dimension.first + dimension.size].tolist()
        for index, component in enumerate(ids):
            where.setdefault(component, {}).setdefault(place, set()).add(index)
        if place.side == "out" and not place.dim and place.name in order:  # a bare weight has outputs in dimension 0
            producers.setdefault(place.name, ids)
    producers = dict(sorted(producers.items(), key=lambda item: order[item[0]]))
    skipped = {name: "it has one output channel" for name in order if name not in producers}
    signatures: dict[frozenset[Place], list[int]] = {}
    seen: set[int] = set()
    for name, ids in producers.items():
        for component in ids:
            if component in reasons:
                skipped.setdefault(name, reasons[component])
            elif component not in seen:
                seen.add(component)
                signatures.setdefault(frozenset(where[component]), []).append(component)
    groups = []
    names: set[str] = set()
    first_units: dict[str, int] = {}
    units: dict[int, int] = {}  # component -> unit
    for members in signatures.values():
        if len(members) == 1:
            skipped.setdefault(_producer_of(members[0], producers), "its channels can only be removed all together")
            continue
        slots = _slots(members, where)
        first = min(
            (slot for slot in slots if slot.side == "out" and slot.name in producers), key=lambda slot: order[slot.name]
        )
        name = first.name
        if name in names:
            name = f"{name}[{int(first.index.min())}:{int(first.index.max()) + 1}]"
        names.add(name)
        groups.append(Group(name, len(members), slots))
        first_units[name] = len(units)
        units |= {component: len(units) + channel for channel, component in enumerate(members)}
    unit_of = torch.tensor([units.get(component, ALWAYS) for component in components.tolist()])
    unit_of[FREE] = ALWAYS
    numbers = CallNumbers(list(flow.calls.numbers(unit_of)), first_units, len(units))
    return TracedGroups(groups, skipped, numbers, flow.multiplies_activations, components, first_labels)


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


def _producer_of(component: int, producers: dict[str, list[int]]) -> str:
    return next(name for name, ids in producers.items() if component in ids)


def _slots(members: list[int], where: dict[int, dict[Place, set[int]]]) -> list[Slots]:
    slots = []
    for place in where[members[0]]:
        pairs = sorted(
            (index, channel) for channel, component in enumerate(members) for index in where[component][place]
        )
        index, channel = torch.tensor(pairs).unbind(1)
        slots.append(Slots(place.name, place.side, index, channel, place.dim))
    return slots


def trace_groups(network: nn.Module, example: Tensor, uses: Iterable[str]) -> TracedGroups:
    """Every coupled group of a network in the order of execution, and why the channels of other layers stay."""
    twin = copy_network(network)
    return groups_of_flow(trace_channels(twin, example), twin, uses)

"""Coupled channel groups from labels: components of labels that are free, gathered by where they stand."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from methods.graph.channels import Group, Slots
from methods.graph.flow.balance import balance_sets
from methods.graph.flow.call_numbers import ALWAYS, CallNumbers
from methods.graph.flow.call_recorder import units_along
from methods.graph.flow.channel_flow import ChannelFlow
from methods.graph.flow.labels import FREE, varying_dims
from methods.graph.flow.passes import trace_channels
from methods.graph.flow.places import LabelPlaces, Place
from methods.graph.flow.product_widths import ProductWidths, sides_of_weights, widths_of_products
from methods.graph.narrow import channels_of
from methods.graph.trace import LayerUse
from models.execution.module_copies import copy_on_write


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
class TracedGroups:
    """What the channel flow found in a network.

    Attributes:
        groups: in the order of their first producer.
        reasons: why producers' other channels stay.
        uses: of the layers, in the order of execution.
        products: how the FLOPs of all that applies weights shrink with the groups' channels.
        numbers: widths that the code holds.
        measures: group -> the operator that measures its channels together (their mean), if any.
        needs_labels: whether activations are multiplied with each other, or channels measured: such an operator takes
            channels in as a layer does, and only labels tell which.
    """

    groups: list[Group]
    reasons: dict[str, str]
    uses: Mapping[str, LayerUse]
    products: Sequence[ProductWidths]
    numbers: CallNumbers
    measures: Mapping[str, str]
    needs_labels: bool
    _components: np.ndarray
    _first_labels: Mapping[Place, int]

    def labels_of(self, removed: Iterable[tuple[Slots, Tensor]]) -> Tensor:
        """(number of labels,) whether a label belongs to removed channels, given by their indices in slots."""
        labels = [self._first_labels[Place(slots.name, slots.side, slots.dim)] + index for slots, index in removed]
        components = self._components[torch.cat(labels).numpy()]
        return torch.from_numpy(np.isin(self._components, components))


def groups_of_flow(flow: ChannelFlow, network: nn.Module, uses: Mapping[str, LayerUse]) -> TracedGroups:
    """The coupled groups by the labels of a trace.

    Args:
        uses: the layers of `trace_layers`, bare weights among them, in the order of execution.
    """
    order = {name: position for position, name in enumerate(uses)}
    components = settle_splits(flow)
    recorded, component_of = flow.products.recorded, torch.from_numpy(components)
    sides = sides_of_weights(recorded, flow.labels.dimensions, component_of, uses)
    places = LabelPlaces(flow, network, components, order, sides)
    skipped = {name: _why_without_labels(network, name) for name in order if name not in places.produced}
    groups: dict[str, Group] = {}
    measures: dict[str, str] = {}
    noted = flow.labels.noted(components)
    members_of: list[tuple[str, list[int]]] = []
    first_units: dict[str, int] = {}
    unit_of = torch.full((len(components),), ALWAYS)  # of components; those of one group follow each other
    units = 0
    removable = _removable_sets(places, flow.labels.pinned(components), skipped)
    for members in balance_sets(removable, places.indices, dict(network.named_modules())):
        slots = _slots_of(members, places.indices)
        name = _group_name(slots, order, places.produced, groups)
        groups[name] = Group(name, len(members), slots)
        members_of.append((name, members))
        first_units[name] = units
        if places_measured := [noted[member] for member in members if member in noted]:
            measures[name] = places_measured[0]
        unit_of[members] = torch.arange(units, units + len(members))
        units += len(members)
    unit_of_label = unit_of[component_of]
    unit_of_label[FREE] = ALWAYS
    attributes = flow.attributes.attributes(lambda extent: units_along(extent, unit_of_label))
    numbers = CallNumbers(list(flow.calls.numbers(unit_of_label)), first_units, units, list(attributes))
    products = widths_of_products(recorded, component_of, members_of)
    return TracedGroups(
        list(groups.values()),
        skipped,
        uses,
        products,
        numbers,
        measures,
        flow.needs_labels,
        components,
        places.first_labels,
    )


def _why_without_labels(network: nn.Module, name: str) -> str:
    """Why nothing is known of a layer's output channels."""
    parameter = dict(network.named_parameters(remove_duplicate=False)).get(name)
    if parameter is not None:
        return "it is a weight with one output channel" if parameter.shape[0] == 1 else "no dimension of it is channels"
    layer = network.get_submodule(name)
    if "weight" not in layer._parameters:
        return "its weight is computed from other tensors, and no plain layer does the same"
    if channels_of(layer, "out") == 1:
        return "it has one output channel"
    return "channels of transposed convolutions in groups are not followed"


def _removable_sets(places: LabelPlaces, pinned: Mapping[int, str], skipped: dict[str, str]) -> list[list[int]]:
    """Components of which any may be removed; all in one set stand at the same places, and so make one group.

    Args:
        pinned: the components that stay, with the reason.
        skipped: gets the reasons for layers with channels that stay.
    """
    sets: dict[frozenset[Place], dict[int, str]] = {}  # component -> its first producer
    for name, ids in places.produced.items():
        for component in ids:
            if component in pinned:
                skipped.setdefault(name, pinned[component])
            else:
                sets.setdefault(frozenset(places.indices[component]), {}).setdefault(component, name)
    for members in sets.values():
        if len(members) == 1:
            ((component, name),) = members.items()
            number, width = places.produced[name].count(component), len(places.produced[name])
            some = "its channels" if number == width else f"{number} of its {width} channels"
            skipped.setdefault(name, f"{some} can only be removed all together")
    return [list(members) for members in sets.values() if len(members) > 1]


def _group_name(slots: Iterable[Slots], order: Mapping[str, int], layers: Container[str], taken: Container[str]) -> str:
    """The layer that computes a group's channels first, with their range if another group has this name."""
    produced = [slot for slot in slots if slot.side == "out" and slot.name in layers]
    first = min(produced, key=lambda slot: order[slot.name])
    if first.name not in taken:
        return first.name
    return f"{first.name}[{int(first.index.min())}:{int(first.index.max()) + 1}]"


def _slots_of(members: Sequence[int], indices: Mapping[int, Mapping[Place, set[int]]]) -> list[Slots]:
    slots = []
    for place in dict.fromkeys(place for component in members for place in indices[component]):
        pairs = sorted(
            (index, channel) for channel, component in enumerate(members) for index in indices[component].get(place, ())
        )
        index, channel = torch.tensor(pairs).unbind(1)
        slots.append(Slots(place.name, place.side, index, channel, place.dim))
    return slots


def trace_groups(network: nn.Module, example: Tensor, uses: Mapping[str, LayerUse]) -> TracedGroups:
    """Every coupled group of a network in the order of execution, and why the channels of other layers stay."""
    twin = copy_on_write(network)
    traced = groups_of_flow(trace_channels(twin, example), twin, uses)
    traced.numbers.observe_inputs(copy_on_write(network), example)
    return traced

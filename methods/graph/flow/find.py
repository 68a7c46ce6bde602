"""Coupled channel groups from labels: components of labels that are free, gathered by where they stand."""

from __future__ import annotations

import gc
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from methods.graph.channels import Group, Slots
from methods.graph.flow.balance import balance_sets
from methods.graph.flow.call_numbers import ALWAYS, CallNumbers
from methods.graph.flow.call_recorder import units_along
from methods.graph.flow.channel_flow import ChannelFlow
from methods.graph.flow.index_tensors import index_tensors
from methods.graph.flow.labels import FREE, Dimension, varying_dims
from methods.graph.flow.passes import trace_channels
from methods.graph.flow.places import LabelPlaces, Place
from methods.graph.flow.product_widths import ProductWidths, sides_of_weights, widths_of_products
from methods.graph.narrow import channels_of
from methods.graph.trace import LayerUse
from models.execution.inputs import Inputs
from models.execution.module_copies import copy_on_write

UNEQUAL_PARTS = "its channels play unequal parts, so that no balanced removal exists"


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
        dimensions: of all labels, in their order.
    """

    groups: list[Group]
    reasons: dict[str, str]
    uses: Mapping[str, LayerUse]
    products: Sequence[ProductWidths]
    numbers: CallNumbers
    measures: Mapping[str, str]
    needs_labels: bool
    dimensions: Sequence[Dimension]
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
    reasons = {name: _why_without_labels(network, name) for name in order if name not in places.produced}
    removable, reasons_to_stay = _removable_sets(places, flow.labels.pinned(components))
    sets = balance_sets(removable, places.indices, dict(network.named_modules()))
    balanced = {component for members in sets for component in members}
    unbalanced = [name for name, ids in places.produced.items() if balanced.isdisjoint(ids)]
    reasons_to_stay = dict.fromkeys(unbalanced, UNEQUAL_PARTS) | reasons_to_stay
    groups = _name_groups(sets, places, order)
    members_of = [(group.name, members) for group, members in zip(groups, sets, strict=True)]
    noted = flow.labels.noted(components)
    measured = [(name, noted[member]) for name, members in members_of for member in reversed(members)
                if member in noted]  # fmt: skip
    return TracedGroups(
        list({group.name: group for group in groups}.values()),  # two may be the same range of a bare weight
        reasons | reasons_to_stay,
        uses,
        widths_of_products(recorded, component_of, members_of),
        _numbers_of_code(flow, component_of, members_of),
        dict(measured),  # of a group, the place of its first channel
        flow.needs_labels,
        flow.labels.dimensions,
        components,
        places.first_labels,
    )


def _numbers_of_code(
    flow: ChannelFlow, component_of: Tensor, members_of: Sequence[tuple[str, list[int]]]
) -> CallNumbers:
    """What the code's numbers count: units, which are the channels of one group after the other.

    Args:
        component_of: (number of labels,) the component of each label.
        members_of: name and components of every group.
    """
    unit_of = torch.full((len(component_of),), ALWAYS)  # of components
    first_units: dict[str, int] = {}
    units = 0
    for name, members in members_of:
        first_units[name] = units
        unit_of[members] = torch.arange(units, units + len(members))
        units += len(members)
    unit_of_label = unit_of[component_of]
    unit_of_label[FREE] = ALWAYS  # all tensors without channels have this label in common
    units_of = partial(units_along, unit_of=unit_of_label)
    attributes = list(flow.attributes.attributes(units_of))
    indices = list(index_tensors(flow.picks, flow.labels.dimensions, units_of))
    return CallNumbers(list(flow.calls.numbers(unit_of_label)), first_units, units, attributes, indices)


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
    return "its output channels are not followed"


def _removable_sets(places: LabelPlaces, pinned: Mapping[int, str]) -> tuple[list[list[int]], dict[str, str]]:
    """Components of which any may be removed; all in one set stand at the same places, and so make one group.

    Args:
        pinned: the components that stay, with the reason.

    Returns:
        The sets, and the reasons for layers with channels that stay.
    """
    sets: dict[frozenset[Place], dict[int, None]] = {}
    reasons: dict[str, str] = {}
    for name, ids in places.produced.items():
        for component in ids:
            if component in pinned:
                reasons.setdefault(name, pinned[component])
            else:
                sets.setdefault(frozenset(places.indices[component]), {}).setdefault(component)
    # One component cannot shrink: without it, the layers on either side would have no channels left.
    single = {component for members in sets.values() if len(members) == 1 for component in members}
    for name, ids in places.produced.items():
        for component in single.intersection(ids):
            number, width = ids.count(component), len(ids)
            some = "its channels" if number == width else f"{number} of its {width} channels"
            reasons.setdefault(name, f"{some} can only be removed all together")
    return [list(members) for members in sets.values() if len(members) > 1], reasons


def _name_groups(sets: Iterable[list[int]], places: LabelPlaces, order: Mapping[str, int]) -> list[Group]:
    groups: list[Group] = []
    for members in sets:
        slots = _slots_of(members, places.indices)
        name = _group_name(slots, order, places.produced, {group.name for group in groups})
        groups.append(Group(name, len(members), slots))
    return groups


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


@contextmanager
def _paused_collection() -> Iterator[None]:
    """No garbage is looked for: the small sets of each label would let Python search all of torch's objects for it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def trace_groups(network: nn.Module, example: Inputs, uses: Mapping[str, LayerUse]) -> TracedGroups:
    """Every coupled group of a network in the order of execution, and why the channels of other layers stay."""
    twin = copy_on_write(network)
    flow = trace_channels(twin, example)
    with _paused_collection():
        traced = groups_of_flow(flow, twin, uses)
    traced.numbers.observe_inputs(copy_on_write(network), example)
    return traced

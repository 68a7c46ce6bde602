"""Coupled channel groups as sites, for every method that removes channels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from methods.base import Setting, Site
from methods.graph.channels import Group, find_lopsided_module, keep_channels, producing_layers, set_partitions
from methods.graph.flow.find import UNEQUAL_PARTS, trace_groups
from methods.graph.least_widths import least_widths
from methods.graph.plain_form import PlainForm
from methods.graph.trace import LayerUse, drop_caches, trace_layers
from methods.graph.trial_images import trial_images
from methods.graph.verify import sound_groups
from methods.graph.width_cost import WidthCost
from models.errors import UserError
from models.execution.inputs import Example, Inputs


class ChannelGroups:
    """The prunable channel groups of a network as sites, with their cost model.

    A site's ladder keeps n, n − c, … channels, where c is the number of classes of its group: each setting removes one
    channel of every class.

    Attributes:
        network: with plain layers in the place of those that cannot be narrowed; it has the names that groups have.
        groups: of the sites.
        skipped: layer -> why its channels stay.
    """

    def __init__(self, network: nn.Module, example: Example) -> None:
        if isinstance(network, torch.jit.ScriptModule):
            raise UserError("the network is a TorchScript module, whose code is fixed; give the module it was made of")
        example = Inputs.of(example)
        self._example = example.first()
        self._form = PlainForm(network, example)
        self.network = network = self._form.network
        uses = trace_layers(network, example)
        traced = trace_groups(network, example, uses)
        self.skipped, self._numbers = dict(traced.reasons), traced.numbers
        set_partitions(traced.groups, network)
        prunable = self._prunable_groups(traced.groups, network)
        images = trial_images(network, example, traced)
        sound, unsound = sound_groups(network, example, prunable, traced, images)
        least, unsettled = least_widths(network, example, sound, traced, images)
        found_fault = unsound or unsettled or any(least[group.name] > group.classes for group in sound)
        if images is not example and found_fault:  # what is wrong on smaller images may be right on these
            sound, unsound = sound_groups(network, example, prunable, traced)
            least, unsettled = least_widths(network, example, sound, traced)
        self.groups = [group for group in sound if group.name in least]
        self.skipped |= unsound | unsettled
        self.skipped |= self._reasons_of_followers(traced.groups, uses)
        ladders = [list(range(group.channels, least[group.name] - 1, -group.classes)) for group in self.groups]
        self.sites = tuple(_channel_site(group, ladder) for group, ladder in zip(self.groups, ladders, strict=True))
        self.cost = WidthCost(network, self.groups, ladders, traced.products)

    def _prunable_groups(self, groups: list[Group], network: nn.Module) -> list[Group]:
        """The groups in which channels can be removed; of the others, the reason goes to `skipped`."""
        prunable = []
        for group in groups:
            sizes = torch.bincount(group.partition)
            module = find_lopsided_module(group, network)
            if module is not None:
                self.skipped[group.name] = f"the groups of {module} would lose unequally many channels"
            elif len(sizes.unique()) > 1:
                self.skipped[group.name] = UNEQUAL_PARTS
            elif int(sizes[0]) == 1:
                self.skipped[group.name] = "each of its channels has a part of its own, so that none can be removed"
            else:
                prunable.append(group)
        return prunable

    def _reasons_of_followers(self, groups: list[Group], uses: Mapping[str, LayerUse]) -> dict[str, str]:
        """Of the layers whose channels a group given up holds together with those of the layer it is called after."""
        sound = {name for group in self.groups for name in producing_layers(group, uses)}
        reasons = {}
        for group in groups:
            followers = [name for name in producing_layers(group, uses) if name not in sound | self.skipped.keys()]
            reasons.update(dict.fromkeys(followers, self.skipped.get(group.name, "")))
        return reasons

    @property
    def unregistered_tensors(self) -> list[str]:
        """Those with channels that modules hold as plain attributes (`self.order = torch.tensor(...)`)."""
        registered = dict(self.network.named_parameters(remove_duplicate=False)) | dict(self.network.named_buffers())
        names = {slots.name for group in self.groups for slots in group.slots if slots.dim is not None}
        return sorted(names - registered.keys())

    def narrow_network(self, network: nn.Module, staying: Mapping[str, Tensor]) -> None:
        """Remove from `network`, a copy of the dense one, all channels of the named sites but `staying` (ascending)."""
        self._form.replace_layers(network)
        keep_channels(network, self.groups, staying)
        self._numbers.write_numbers(network, staying, self._example)
        drop_caches(network)


def _channel_site(group: Group, ladder: list[int]) -> Site:
    ratios = tuple(round(1 - width / group.channels, 6) for width in ladder)
    settings = tuple(Setting(ratio=ratio) for ratio in ratios)
    # A unit that can only be removed as a whole may hold several channels of the layer (split, pixel shuffle); channels
    # of several layers may only go together.
    layer = group.name.partition("[")[0]
    produced = next(slots for slots in group.slots if slots.side == "out" and slots.name == layer)
    unit = len(produced.index) / group.channels
    owned = tuple(dict.fromkeys(slots.name for slots in group.slots if slots.side == "out"))
    widths = tuple(round(width * unit) for width in ladder)
    return Site(group.name, settings, ratios, group.layers, len(produced.index), widths, owned)


def removal_levels(scores: Tensor, partition: Tensor) -> Tensor:
    """(channels,) the level of a site's ladder that removes each channel: in every class the lowest score first."""
    levels = torch.empty(len(scores), dtype=torch.long)
    for c in range(int(partition.max()) + 1):
        members = torch.where(partition == c)[0]
        strongest_first = members[scores[members].argsort(descending=True, stable=True)]
        levels[strongest_first] = torch.arange(len(members), 0, -1)
    return levels

"""Coupled channel groups: where their channels stand in a network, which may go, and their removal.

A group's places are *slots*: channel `index[i]` on one side of a module is channel `channel[i]` of the group. Groups
are found by `flow/find.py`; a group that fails the trial on a copy (`verify.py`) stays dense with a reason.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from methods.graph.narrow import Side, channels_of, is_depthwise, narrow_module, slice_tensor


@dataclass(frozen=True)
class Slots:
    """The channels of a group on one side of one module, or along one dimension of a bare parameter."""

    name: str  # of the module or parameter
    side: Side
    index: Tensor  # (n,) channel of the module
    channel: Tensor  # (n,) channel of the group
    dim: int | None = None  # for a bare parameter


@dataclass
class Group:
    """Channels that can only be removed together."""

    name: str
    channels: int
    slots: list[Slots]
    partition: Tensor = field(default_factory=lambda: torch.zeros(0))
    """(channels,) class of each channel; equally many must stay of every class (grouped convolutions, halves)."""

    @property
    def classes(self) -> int:
        """The number of classes."""
        return int(self.partition.max()) + 1

    @property
    def layers(self) -> tuple[str, ...]:
        """The modules and bare parameters that change with the group."""
        return tuple(dict.fromkeys(slots.name for slots in self.slots))


def shared_weights(network: nn.Module) -> dict[str, str]:
    """Modules that have a parameter in common with another module, each with a sentence that names both."""
    owners: dict[int, list[str]] = {}
    for name, module in network.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    reasons = {}
    for names in owners.values():
        reasons.update({name: f"{name} shares its weights with {partner}" for name in names for partner in names
                        if name != partner})  # fmt: skip
    return reasons


def tied_parameters(network: nn.Module) -> list[list[str]]:
    """The names of each parameter that stands in several places, in their order."""
    names: dict[int, list[str]] = {}
    for owner, module in network.named_modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                names.setdefault(id(parameter), []).append(f"{owner}.{leaf}" if owner else leaf)
    return [places for places in names.values() if len(places) > 1]


def producing_layers(group: Group, layers: Container[str]) -> tuple[str, ...]:
    """Those of the layers that compute channels of the group."""
    produced = [slots.name for slots in group.slots if slots.side == "out"]
    return tuple(dict.fromkeys(name for name in produced if name in layers))


def set_partitions(groups: Iterable[Group], network: nn.Module) -> None:
    """Set `partition` of every group.

    Two channels are of one class if both reach the same modules equally often and lie in the same group of every
    grouped convolution and group norm. Where classes have unequally many channels, but a common divisor, each is split
    into classes of so many: then equally many of every class are the same share of all.
    """
    modules = dict(network.named_modules())
    for group in groups:
        labels: list[list[tuple[str, Side, int]]] = [[] for _ in range(group.channels)]
        for slots in group.slots:
            width = block_width(modules.get(slots.name), slots.side)
            for index, channel in zip(slots.index.tolist(), slots.channel.tolist(), strict=True):
                labels[channel].append((slots.name, slots.side, index // width if width else 0))
        members: dict[tuple[tuple[str, Side, int], ...], list[int]] = {}
        for channel, label in enumerate(labels):
            members.setdefault(tuple(label), []).append(channel)
        size = math.gcd(*map(len, members.values()))
        if size == 1:  # no two channels could go one after the other
            size = max(map(len, members.values()))
        parts = [
            channels[start : start + size] for channels in members.values() for start in range(0, len(channels), size)
        ]
        group.partition = torch.empty(group.channels, dtype=torch.long)
        for number, part in enumerate(parts):
            group.partition[part] = number


def find_lopsided_module(group: Group, network: nn.Module) -> str | None:
    """The name of a grouped convolution or group norm whose groups would lose unequally many channels, if any."""
    modules = dict(network.named_modules())
    for slots in group.slots:
        width = block_width(modules.get(slots.name), slots.side)
        if width is not None:
            blocks = channels_of(modules[slots.name], slots.side) // width
            if len(torch.bincount(slots.index // width, minlength=blocks).unique()) > 1:
                return slots.name
    return None


def block_width(module: nn.Module | None, side: Side) -> int | None:
    """The channels in each group of a grouped convolution or group norm; None where any channel may go.

    A depthwise convolution loses groups with its channels, and so does a norm of every channel alone.
    """
    blocks = 1
    if isinstance(module, nn.GroupNorm):
        blocks = module.num_groups if module.num_groups < module.num_channels else 1
    elif isinstance(module, nn.modules.conv._ConvNd) and not is_depthwise(module):
        blocks = module.groups
    return channels_of(module, side) // blocks if module is not None and blocks > 1 else None


def removed_channels(groups: Iterable[Group], staying: Mapping[str, Tensor]) -> Iterator[tuple[Slots, Tensor]]:
    """The slots of the groups named in `staying`, each with the channels that its module loses."""
    for group in groups:
        if group.name in staying:
            stays = torch.zeros(group.channels, dtype=torch.bool)
            stays[staying[group.name]] = True
            for slots in group.slots:
                yield slots, slots.index[~stays[slots.channel]]


def keep_channels(network: nn.Module, groups: Iterable[Group], staying: Mapping[str, Tensor]) -> None:
    """Narrow `network` in place so that of every group named in `staying` only these channels remain.

    Args:
        network: a copy of the network that the groups were found on.
        groups: the groups; those without an entry in `staying` keep all channels.
        staying: group name -> ascending channels to keep.
    """
    gone: dict[tuple[str, Side, int | None], list[Tensor]] = {}  # several groups may meet in one module
    for slots, removed in removed_channels(groups, staying):
        gone.setdefault((slots.name, slots.side, slots.dim), []).append(removed)
    modules, tied = dict(network.named_modules()), tied_parameters(network)
    # Outputs first: a grouped convolution left with one input in each group would pass for a depthwise one.
    for (name, side, dim), pieces in sorted(gone.items(), key=lambda item: item[0][1] == "in"):
        owner, _, leaf = name.rpartition(".")
        width = getattr(modules[owner], leaf).shape[dim] if dim is not None else channels_of(modules[name], side)
        stays = torch.ones(width, dtype=torch.bool)
        stays[torch.cat(pieces)] = False
        keep = stays.nonzero().flatten()
        if len(keep) == width:
            continue
        if dim is None:
            narrow_module(modules[name], side, keep)
        else:
            slice_tensor(modules[owner], leaf, dim, keep)
    # Each module has sliced a tied parameter for itself, all of them alike.
    for first, *others in tied:
        for name in others:
            owner, _, leaf = name.rpartition(".")
            setattr(modules[owner], leaf, network.get_parameter(first))

"""Coupled channel groups as sites: what every method that removes channels chooses among."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from methods.base import Setting, Site
from methods.graph.channels import Group, find_groups, find_lopsided_module, keep_channels, set_partitions
from methods.graph.verify import sound_groups
from methods.graph.width_cost import WidthCost


class ChannelGroups:
    """The prunable channel groups of a network as sites, with their cost model.

    A site's ladder keeps n, n − c, … channels, where c is the number of classes that must lose equally many.
    """

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        groups, self.skipped, uses = find_groups(network, example)
        set_partitions(groups, network)
        groups = self._prunable(groups, network)
        self.groups, unsound = sound_groups(network, example, groups)
        self.skipped |= unsound
        ladders = [_ladder(group) for group in self.groups]
        self.sites = tuple(_site(group, ladder) for group, ladder in zip(self.groups, ladders, strict=True))
        self.cost = WidthCost(network, self.groups, ladders, uses)

    def _prunable(self, groups: list[Group], network: nn.Module) -> list[Group]:
        """Without the groups whose classes leave nothing to choose."""
        kept = []
        for group in groups:
            sizes = torch.bincount(group.partition)
            module = find_lopsided_module(group, network)
            if module is not None:
                self.skipped[group.name] = f"the groups of {module} would lose unequally many channels"
            elif len(sizes.unique()) > 1:
                self.skipped[group.name] = "its channels play unequal parts, so that no balanced removal exists"
            elif int(sizes[0]) == 1:
                self.skipped[group.name] = "each of its channels has a part of its own, so that none can be removed"
            else:
                kept.append(group)
        return kept

    def narrow(self, network: nn.Module, kept: Mapping[str, Tensor]) -> None:
        """Leave only the channels `kept` (ascending) of the named sites in `network`, a copy; in place."""
        keep_channels(network, self.groups, dict(kept))


def _ladder(group: Group) -> list[int]:
    classes = int(group.partition.max()) + 1
    return list(range(group.channels, 0, -classes))


def _site(group: Group, ladder: list[int]) -> Site:
    ratios = tuple(round(1 - kept / group.channels, 6) for kept in ladder)
    settings = tuple(Setting(ratio=ratio) for ratio in ratios)
    owned = tuple(dict.fromkeys(each.name for each in group.slots if each.side == "out"))
    return Site(group.name, settings, ratios, group.layers, group.channels, tuple(ladder), owned)


def gone_at(scores: Tensor, partition: Tensor) -> Tensor:
    """The level of a site's ladder at which each channel goes, (channels,): of every class the lowest score first."""
    levels = torch.empty(len(scores), dtype=torch.long)
    for c in range(int(partition.max()) + 1):
        members = torch.where(partition == c)[0]
        strongest_first = members[scores[members].argsort(descending=True, stable=True)]
        levels[strongest_first] = torch.arange(len(members), 0, -1)
    return levels

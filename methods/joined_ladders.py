"""One ladder for each site of several methods, of their settings side by side, and its levels as levels of theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from methods.base import DENSE, Compressor, Cost, Levels, Setting, Site
from methods.graph.trace import LayerUse
from methods.tables.table_cost import falling_settings

Damages = Mapping[str, Sequence[float]]
"""Site -> the damage of each of its settings, of the sites of which it is known."""


class _Rung(NamedTuple):
    """A setting: whose it is and which of the member's, what it costs if all else is dense, and its damage if known."""

    member: int
    level: int
    cost: Cost
    damage: float | None


class JoinedLadders:
    """The sites of several methods of one network.

    Where two methods do not divide the network into the same sites, the first one has the layers.

    Attributes:
        sites: in the network's order.
    """

    def __init__(self, members: Mapping[str, Compressor], damages: Sequence[Damages], uses: Mapping[str, LayerUse]):
        """
        Args:
            members: by the names that settings give them.
            damages: of each member.
            uses: of the layers, in the network's order.
        """
        self._members, self._labels = list(members.values()), list(members)
        self._damages, self._uses = damages, uses
        first_of = {site.name: site for member in reversed(self._members) for site in member.sites}
        order = {layer: number for number, layer in enumerate(uses)}
        names = dict.fromkeys(name for numbers in self.numbers for name in numbers)
        in_order = sorted(names, key=lambda name: order[first_of[name].layers[0]])
        ladders = [self._join_ladder(first_of[name]) for name in in_order]
        self.sites = tuple(site for site, _ in ladders)
        self._rungs = [np.array([(rung.member, rung.level) for rung in rungs]) for _, rungs in ladders]

    @cached_property
    def numbers(self) -> list[dict[str, int]]:
        """Of every member: site -> its number, without the sites whose layers an earlier member divides otherwise."""
        owners: dict[str, Site] = {}
        numbers: list[dict[str, int]] = []
        for member in self._members:
            numbers.append({})
            for number, site in enumerate(member.sites):
                present = [owners[layer] for layer in site.layers if layer in owners]
                if all((owner.name, owner.layers) == (site.name, site.layers) for owner in present):
                    owners.update(dict.fromkeys(site.layers, site))
                    numbers[-1][site.name] = number
        return numbers

    def split_levels(self, levels: Levels) -> list[Levels]:
        """Levels (A, n_sites) -> those of each member's sites, dense where another member is chosen."""
        split = [np.zeros((len(levels), len(member.sites)), dtype=np.intp) for member in self._members]
        for column, (site, rungs) in enumerate(zip(self.sites, self._rungs, strict=True)):
            member, level = rungs[levels[:, column]].T
            for place, numbers in enumerate(self.numbers):
                if site.name in numbers:
                    split[place][:, numbers[site.name]] = np.where(member == place, level, 0)
        return split

    def _join_ladder(self, site: Site) -> tuple[Site, list[_Rung]]:
        rungs = [_Rung(0, 0, self._members[0].cost.dense, 0.0), *self._rungs_of(site.name)]
        known = all(rung.damage is not None for rung in rungs)
        rungs = _undominated(rungs) if known else rungs
        flops = sum(self._uses[layer].flops for layer in site.layers)
        shares = [(rungs[0].cost.flops - rung.cost.flops) / max(flops, 1) for rung in rungs]
        kept, strengths = falling_settings([rung.cost for rung in rungs], shares)
        rungs = [rungs[i] for i in kept]
        joined = replace(
            site,
            settings=tuple(self._setting_of(site.name, rung) for rung in rungs),
            strengths=tuple(strengths),
            damages=tuple(rung.damage for rung in rungs if rung.damage is not None) if known else (),
        )
        return joined, rungs

    def _rungs_of(self, name: str) -> Iterator[_Rung]:
        """All settings that members offer a site, but dense."""
        for place, (member, numbers) in enumerate(zip(self._members, self.numbers, strict=True)):
            if name not in numbers:
                continue
            count = len(member.sites[numbers[name]].settings)
            alone = np.zeros((count, len(member.sites)), dtype=np.intp)
            alone[:, numbers[name]] = np.arange(count)
            costs = zip(*member.cost(alone), strict=True)
            damages = self._damages[place].get(name, [None] * count)
            for level, (figures, damage) in enumerate(zip(costs, damages, strict=True)):
                if level:
                    yield _Rung(place, level, Cost(*map(int, figures)), damage)

    def _setting_of(self, name: str, rung: _Rung) -> Setting:
        if not rung.level:
            return DENSE
        site = self._members[rung.member].sites[self.numbers[rung.member][name]]
        return Setting(method=self._labels[rung.member], **site.settings[rung.level])


def _undominated(rungs: Sequence[_Rung]) -> list[_Rung]:
    """Those, dense first, of which no other saves as many FLOPs for as little damage."""
    best, least = [], np.inf
    for rung in sorted(rungs[1:], key=lambda rung: (rung.cost.flops, rung.damage, rung.cost.bytes)):
        assert rung.damage is not None
        if rung.damage < least:
            best.append(rung)
            least = rung.damage
    return [rungs[0], *reversed(best)]

"""Several methods as one, `tucker-or-kse`: every layer may be compressed by any of them.

The ladders of the members stand side by side in one site. A setting is a member's with the knob `method`. Of all
settings those stay that no other beats, which saves as many FLOPs for less damage; what the members do not predict
themselves is measured on the calibration batches, layer by layer (`moments/setting_damages.py`). Costs are exact,
because members change layers of their own. Where two members do not cut the network into the same sites, the one that
is named first has the layers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, NamedTuple, Self

import numpy as np
from torch import Tensor, nn

from methods.base import (
    DENSE,
    Allocation,
    Centroids,
    Compressor,
    Cost,
    CostModel,
    Costs,
    Levels,
    MethodInfo,
    Setting,
    Site,
    Tuning,
    lazy_attribute,
)
from methods.following import LayerMethod
from methods.graph.removal import Change, KeptChannels, RemovalOrder
from methods.graph.trace import trace_layers
from methods.joint_tuning import JointTuning
from methods.method_names import method_label
from methods.moments.setting_damages import measure_damages
from methods.record import MethodRecord, bind_in_turn, joint_options
from methods.tables.table_cost import falling_settings
from models.errors import UserError
from models.execution.inputs import Example
from models.tasks.classification import CLASSIFICATION
from models.tasks.objective import Batch, Objective


def choose_records(records: Sequence[MethodRecord]) -> MethodRecord:
    """Record and factory of a choice; UserError if its members do not go together."""
    infos = [info for info, _ in records]
    name = "-or-".join(info.name for info in infos)
    if any(info.place != "second" for info in infos):
        narrow = [info.name for info in infos if info.place != "second"]
        raise UserError(f"methods cannot be chosen from as {name!r}: {', '.join(narrow)} does not work layer by layer")
    if len({info.name for info in infos}) < len(infos):
        raise UserError(f"methods cannot be chosen from as {name!r}: each is to be named once")
    info = MethodInfo(
        name=name,
        summary="layer by layer, one of: " + "; ".join(f"{info.name}, {info.summary}" for info in infos),
        source="; ".join(info.source for info in infos),
        plain_layers=all(info.plain_layers for info in infos),
        needs_calibration=True,
        has_centroids=any(info.has_centroids for info in infos),
        place="second",
        options=joint_options(infos),
    )
    return info, partial(Choice, info, records)


class _Rung(NamedTuple):
    """A setting of a site: whose it is, and which of the member's settings."""

    member: int
    level: int


class Choice(LayerMethod):
    """A site for every layer, or layers, that a member compresses."""

    def __init__(
        self,
        info: MethodInfo,
        records: Sequence[MethodRecord],
        network: nn.Module,
        example: Example,
        options: Mapping[str, Any],
    ) -> None:
        members = bind_in_turn(records, network, example, options)
        if members[-1].network is not network:  # all work on the network of which layers have been made plain
            members = bind_in_turn(records, members[-1].network, example, options)
        super().__init__(members[-1].network, example, options)
        self.info, self._infos = info, [member for member, _ in records]
        self._members = [_check_member(*pair) for pair in zip(self._infos, members, strict=True)]
        self._labels = [method_label(member.name) for member in self._infos]
        self._damages: list[Mapping[str, tuple[float, ...]]] = [{} for _ in members]

    @property
    def rebuilt(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(name for member in self._members for name in member.rebuilt)

    def calibrate(self, batches: Iterable[Batch], objective: Objective = CLASSIFICATION) -> None:
        """Calibrate the members, and measure the damages that they do not predict."""
        loaded = list(batches)
        for place, (member, info) in enumerate(zip(self._members, self._infos, strict=True)):
            if info.needs_calibration:
                member.calibrate(loaded, objective)
            predicted = {site.name: site.damages for site in member.sites if site.damages}
            self._damages[place] = predicted | measure_damages(member, predicted.keys(), loaded, objective)
        for computed in ("_ladders", "sites", "cost", "skipped"):
            self.__dict__.pop(computed, None)

    @lazy_attribute
    def sites(self) -> tuple[Site, ...]:
        return tuple(site for site, _ in self._ladders)

    @lazy_attribute
    def cost(self) -> CostModel:
        return ChoiceCost(self)

    @lazy_attribute
    def skipped(self) -> dict[str, str]:
        reasons: dict[str, list[str]] = {}
        for label, member in zip(self._labels, self._members, strict=True):
            for layer, reason in member.skipped.items():
                reasons.setdefault(layer, []).append(f"{label}: {reason}")
        taken = {layer for site in self.sites for layer in site.layers}
        return {layer: "; ".join(texts) for layer, texts in reasons.items() if layer not in taken} | {
            f"{self._labels[place]}:{site.name}": "its layers are those of other sites, of a method named before"
            for place, sites in enumerate(self._own_sites)
            for site in self._members[place].sites
            if site.name not in sites
        }

    @cached_property
    def _own_sites(self) -> list[dict[str, int]]:
        """Of every member: site -> its number, without those whose layers belong to other sites of an earlier one."""
        owner: dict[str, Site] = {}
        sites: list[dict[str, int]] = []
        for member in self._members:
            sites.append({})
            for number, site in enumerate(member.sites):
                if all((owner.get(layer, site).name, owner.get(layer, site).layers) == (site.name, site.layers)
                       for layer in site.layers):  # fmt: skip
                    owner.update(dict.fromkeys(site.layers, site))
                    sites[-1][site.name] = number
        return sites

    @cached_property
    def _ladders(self) -> list[tuple[Site, list[_Rung]]]:
        """The sites in the network's order, each with the rungs of its ladder."""
        uses = trace_layers(self.network, self.example)
        order = {layer: number for number, layer in enumerate(uses)}
        first_of = {site.name: site for member in reversed(self._members) for site in member.sites}
        names = dict.fromkeys(name for sites in self._own_sites for name in sites)
        ladders = []
        for name in sorted(names, key=lambda name: order[first_of[name].layers[0]]):
            site, flops = first_of[name], sum(uses[layer].flops for layer in first_of[name].layers)
            ladder = self._join_ladders(site, flops)
            if ladder is not None:
                ladders.append(ladder)
        return ladders

    def _join_ladders(self, site: Site, flops: int) -> tuple[Site, list[_Rung]] | None:
        """One ladder of all members that have the site; `flops` are those of its dense layers."""
        rungs, costs, damages = [_Rung(0, 0)], [self.cost_of_dense], [0.0]
        predicted = True
        for place, member in enumerate(self._members):
            number = self._own_sites[place].get(site.name)
            if number is None:
                continue
            settings = len(member.sites[number].settings)
            alone = np.zeros((settings, len(member.sites)), dtype=np.intp)
            alone[:, number] = np.arange(settings)
            rungs += [_Rung(place, level) for level in range(1, settings)]
            costs += [Cost(*map(int, row)) for row in zip(*member.cost(alone), strict=True)][1:]
            known = self._damages[place].get(site.name)
            predicted &= known is not None
            damages += known[1:] if known else [0.0] * (settings - 1)
        best = _undominated(costs, damages) if predicted else list(range(len(rungs)))
        dense = costs[0]
        strengths = [(dense.flops - costs[i].flops) / max(flops, 1) for i in best]
        kept, strengths = falling_settings([costs[i] for i in best], strengths)
        if len(kept) == 1:
            return None
        levels = [best[i] for i in kept]
        joined = replace(
            site,
            settings=tuple(self._setting_of(site.name, rungs[i]) for i in levels),
            strengths=tuple(strengths),
            damages=tuple(damages[i] for i in levels) if predicted else (),
        )
        return joined, [rungs[i] for i in levels]

    @property
    def cost_of_dense(self) -> Cost:
        return self._members[0].cost.dense

    def _setting_of(self, name: str, rung: _Rung) -> Setting:
        if not rung.level:
            return DENSE
        number = self._own_sites[rung.member][name]
        setting = self._members[rung.member].sites[number].settings[rung.level]
        return Setting(method=self._labels[rung.member], **setting)

    def split_levels(self, levels: Levels) -> list[Levels]:
        """Levels of the choice's sites (A, n_sites) -> those of each member's sites, dense where another is chosen."""
        split = [np.zeros((len(levels), len(member.sites)), dtype=np.intp) for member in self._members]
        for column, (site, rungs) in enumerate(self._ladders):
            chosen = np.array(rungs)[levels[:, column]]
            for place, numbers in enumerate(self._own_sites):
                if site.name in numbers:
                    split[place][:, numbers[site.name]] = np.where(chosen[:, 0] == place, chosen[:, 1], 0)
        return split

    def member_costs(self, levels: Levels) -> list[Costs]:
        return [member.cost(own) for member, own in zip(self._members, self.split_levels(levels), strict=True)]

    def cost_change(self, order: RemovalOrder) -> Change:
        changes = [member.cost_change(order) if member.sites else None for member in self._members]

        def change(first: Levels, second: Levels) -> Costs:
            figures = [
                at(first, own)
                for at, own in zip(changes, self.split_levels(second), strict=True)
                if at is not None and own.any()
            ]
            nothing = np.zeros(len(second), dtype=np.int64)
            return (
                Costs(*(sum(column, nothing) for column in zip(*figures, strict=True)))
                if figures
                else Costs(nothing, nothing, nothing)
            )

        return change

    def _split_allocation(self, allocation: Allocation) -> list[Allocation]:
        """The allocation of every member."""
        own: list[dict[str, dict[str, Any]]] = [{} for _ in self._members]
        for name, setting in allocation.items():
            if setting != DENSE:
                knobs = dict(setting)
                own[self._labels.index(str(knobs.pop("method")))][name] = knobs
        return [Allocation(settings) for settings in own]

    def _by_member(self, allocation: Allocation) -> Iterable[tuple[LayerMethod, Allocation]]:
        return zip(self._members, self._split_allocation(allocation), strict=True)

    def replace_layers(self, small: nn.Module, allocation: Allocation) -> None:
        for member, own in self._by_member(allocation):
            member.replace_layers(small, own)

    def outline_layers(self, small: nn.Module, allocation: Allocation, tensors: dict[str, Tensor]) -> None:
        for member, own in self._by_member(allocation):
            member.outline_layers(small, own, tensors)

    def store_tables(self, network: nn.Module, tensors: dict[str, Tensor]) -> None:
        for member in self._members:
            member.store_tables(network, tensors)

    def bind_narrowed(self, network: nn.Module, channels: KeptChannels | None) -> Self:
        twin = copy.copy(self)
        twin.network, twin._members = network, [member.bind_narrowed(network, channels) for member in self._members]
        return twin

    def tuning(self, allocation: Allocation | None, network: nn.Module, *, steps: int, lr: float) -> Tuning:
        return JointTuning({
            label: member.tuning(own, network, steps=steps, lr=lr)
            for label, (member, own) in zip(self._labels, self._by_member(allocation or Allocation()), strict=True)
        })  # fmt: skip

    def centroids(self, network: nn.Module) -> list[Centroids]:
        return [codebook for member in self._members for codebook in member.centroids(network)]


class ChoiceCost:
    """The dense network's cost, and what each member changes of it."""

    def __init__(self, choice: Choice) -> None:
        self._choice = choice

    @property
    def dense(self) -> Cost:
        return self._choice.cost_of_dense

    def __call__(self, levels: Levels) -> Costs:
        """`levels` (n_allocations, n_sites)."""
        members = self._choice.member_costs(np.asarray(levels))
        return Costs(*(sum(column) - (len(members) - 1) * dense
                       for dense, column in zip(self.dense, zip(*members, strict=True), strict=True)))  # fmt: skip


def _undominated(costs: Sequence[Cost], damages: Sequence[float]) -> list[int]:
    """The settings, dense first, of which no other saves as many FLOPs for as little damage."""
    best, least = [], np.inf
    for i in sorted(range(1, len(costs)), key=lambda i: (costs[i].flops, damages[i], costs[i].bytes)):
        if damages[i] < least:
            best.append(i)
            least = damages[i]
    return [0, *reversed(best)]


def _check_member(info: MethodInfo, member: Compressor) -> LayerMethod:
    if not isinstance(member, LayerMethod):
        raise UserError(
            f"method {info.name} cannot be one of several: make its class one of methods.following.LayerMethod"
        )
    return member

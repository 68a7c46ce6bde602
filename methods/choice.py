"""Several methods as one, `tucker-or-kse`: every layer may be compressed by any of them.

The ladders of the members stand side by side in one site (`joined_ladders.py`). A setting is a member's with the knob
`method`. Of all settings those stay that no other beats, which saves as many FLOPs for less damage; what the members do
not predict themselves is measured on the calibration batches, layer by layer (`moments/setting_damages.py`). Costs are
exact, because members change layers of their own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

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
    Site,
    Tuning,
    lazy_attribute,
)
from methods.following import LayerMethod
from methods.graph.removal import Change, KeptChannels, RemovalOrder
from methods.graph.trace import trace_layers
from methods.joined_ladders import JoinedLadders
from methods.joint_tuning import JointTuning
from methods.method_names import method_label
from methods.moments.setting_damages import measure_damages
from methods.record import MethodRecord, bind_in_turn
from models.errors import UserError
from models.execution.inputs import Example
from models.tasks.classification import CLASSIFICATION
from models.tasks.objective import Batch, Objective


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
        for computed in ("_joined", "sites", "cost", "skipped"):
            self.__dict__.pop(computed, None)

    @cached_property
    def _joined(self) -> JoinedLadders:
        members = dict(zip(self._labels, self._members, strict=True))
        return JoinedLadders(members, self._damages, trace_layers(self.network, self.example))

    @lazy_attribute
    def sites(self) -> tuple[Site, ...]:
        return self._joined.sites

    @lazy_attribute
    def cost(self) -> CostModel:
        return ChoiceCost(self._members, self._joined)

    @lazy_attribute
    def skipped(self) -> dict[str, str]:
        reasons: dict[str, list[str]] = {}
        elsewhere = {}
        for label, member, numbers in zip(self._labels, self._members, self._joined.numbers, strict=True):
            for layer, reason in member.skipped.items():
                reasons.setdefault(layer, []).append(f"{label}: {reason}")
            for site in member.sites:
                if site.name not in numbers:
                    elsewhere[f"{label}:{site.name}"] = "its layers are those of other sites, of a method named before"
        taken = {layer for site in self.sites for layer in site.layers}
        return {layer: "; ".join(texts) for layer, texts in reasons.items() if layer not in taken} | elsewhere

    def cost_change(self, order: RemovalOrder) -> Change:
        changes = [member.cost_change(order) if member.sites else None for member in self._members]

        def change(first: Levels, second: Levels) -> Costs:
            nothing = np.zeros(len(second), dtype=np.int64)
            figures = [Costs(nothing, nothing, nothing)]
            for at, own in zip(changes, self._joined.split_levels(second), strict=True):
                if at is not None and own.any():
                    figures.append(at(first, own))
            return Costs(*(sum(column) for column in zip(*figures, strict=True)))

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

    def __init__(self, members: Sequence[Compressor], joined: JoinedLadders) -> None:
        self._members, self._joined = members, joined

    @property
    def dense(self) -> Cost:
        return self._members[0].cost.dense

    def __call__(self, levels: Levels) -> Costs:
        """`levels` (n_allocations, n_sites)."""
        split = self._joined.split_levels(np.asarray(levels))
        members = [member.cost(own) for member, own in zip(self._members, split, strict=True)]
        return Costs(*(sum(column) - (len(members) - 1) * dense
                       for dense, column in zip(self.dense, zip(*members, strict=True), strict=True)))  # fmt: skip


def _check_member(info: MethodInfo, member: Compressor) -> LayerMethod:
    if not isinstance(member, LayerMethod):
        raise UserError(
            f"method {info.name} cannot be one of several: make its class one of methods.following.LayerMethod"
        )
    return member

"""Channel removal by optimal brain surgeon: least error at the layers that read them, the rest made to stand in.

A coupled group's channels are removed greedily. Each step takes the one whose removal adds least to

    Σ_layers ‖Δ outputs‖² / ‖outputs‖²        over the layers that read the group,

with each layer's other inputs re-fitted by least squares. For one layer with weights W, input covariance Σ and H = Σ⁻¹
over what is left, removing the inputs b adds tr(W_b (H_bb)⁻¹ W_bᵀ); then W ← W − W_b (H_bb)⁻¹ H_b and
H ← H − H_:b (H_bb)⁻¹ H_b:. (Hassibi and Stork, NIPS 1992; for structures: Kurtić et al., 2023, arXiv 2302.04089,
ZipLM.) The order of removal is found once, with labels not looked at; after that the layers that read what is left
are repaired in closed form for whatever allocation is asked for (`moments.repair`). Groups that are read by layers
of other kinds alone, or by very wide ones, go by the L1 norm of their filters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from methods.base import Allocation, MethodInfo, copy_network
from methods.filters.filter_pruning import FilterPruning
from methods.filters.moments import (
    Moments,
    channel_columns,
    grouped_weights,
    has_measurable_inputs,
    measure_moments,
    repair_layer,
)
from methods.graph.channels import Group
from methods.graph.filter_norms import filter_norms
from methods.graph.narrow import channels_of
from methods.registry import register

_AT_ONCE = 64  # a step removes one channel of every so many that are left: exact on narrow groups, fast on wide ones


class SurgeonPruning(FilterPruning):
    """Greedy channel removal with least-squares compensation; has no options."""

    def __init__(self, info: MethodInfo, network: nn.Module, example: Tensor, options: Mapping[str, Any]) -> None:
        super().__init__(info, _surgeon, network, example, options)
        self.moments: dict[str, Moments] = {}
        self.calibrated = False

    def calibrate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Measure what the layers that read prunable channels see; labels are not looked at."""
        names = dict.fromkeys(name for group in self._channels.groups for name in reading_layers(group, self.network))
        self.moments = measure_moments(copy_network(self.network).eval(), names, batches)
        self.calibrated, self._orders = True, {}

    def compress(self, allocation: Allocation) -> nn.Module:
        small = super().compress(allocation)
        kept = self.kept(allocation, self._gone_at)
        inside, outside = (_stays(self._channels.groups, kept, self.network, side) for side in ("in", "out"))
        for name in inside.keys() & self.moments.keys():
            module = self.network.get_submodule(name)
            everything = torch.ones(channels_of(module, "out"), dtype=torch.bool)
            repair_layer(
                small.get_submodule(name), module, self.moments[name], inside[name], outside.get(name, everything)
            )
        return small


def reading_layers(group: Group, network: nn.Module) -> list[str]:
    """The layers that read a group's channels and whose inputs can be measured."""
    found = [each.name for each in group.slots if each.dim is None and each.side == "in"]
    return [name for name in found if has_measurable_inputs(network.get_submodule(name))]


def _stays(groups: Sequence[Group], kept: Mapping[str, Tensor], network: nn.Module, side: str) -> dict[str, Tensor]:
    """For every module that loses channels on that side: (channels,) bool, which of them stay."""
    found: dict[str, Tensor] = {}
    for group in groups:
        if group.name not in kept:
            continue
        stays = torch.zeros(group.channels, dtype=torch.bool)
        stays[kept[group.name]] = True
        for each in group.slots:
            if each.dim is None and each.side == side:
                width = channels_of(network.get_submodule(each.name), each.side)
                mask = found.setdefault(each.name, torch.ones(width, dtype=torch.bool))
                mask[each.index[~stays[each.channel]]] = False
    return found


@dataclass
class _Reader:
    """One layer (one group of a grouped convolution) that reads the channels, as it is while they go."""

    weight: Tensor  # (outputs, d)
    inverse: Tensor  # (d, d) of the covariance of the inputs left
    energy: float  # of its outputs
    columns: dict[int, Tensor]  # channel of the group -> its columns

    def errors(self, channels: Sequence[int]) -> Tensor:
        """(n,) what the removal of each channel adds, as a share of the outputs' energy."""
        errors = torch.zeros(len(channels), dtype=torch.float64)
        here = [(place, self.columns[c]) for place, c in enumerate(channels) if c in self.columns]
        for size in {len(columns) for _, columns in here}:
            places = torch.tensor([place for place, columns in here if len(columns) == size])
            b = torch.stack([columns for _, columns in here if len(columns) == size])  # (n, size)
            blocks = self.inverse[b[:, :, None], b[:, None, :]]
            rows = self.weight[:, b].permute(1, 2, 0)  # (n, size, outputs)
            errors[places] = (rows * torch.linalg.solve(blocks, rows)).sum((1, 2)) / self.energy
        return errors

    def remove(self, channels: Sequence[int]) -> None:
        """Let the inputs that are left stand in for these channels."""
        gone = [self.columns.pop(c) for c in channels if c in self.columns]
        if not gone:
            return
        b = torch.cat(gone)
        update = torch.linalg.solve(self.inverse[b][:, b], self.inverse[b])  # (b, d)
        self.weight -= self.weight[:, b] @ update
        self.inverse -= self.inverse[:, b] @ update


def _surgeon(pruning: FilterPruning, group: Group) -> Tensor:
    """The step at which each channel goes: the later, the more it matters."""
    assert isinstance(pruning, SurgeonPruning)
    if not pruning.calibrated:
        raise ValueError("obs scores need calibrate() before compress()")
    layers = _open(group, pruning)
    if not layers:
        return filter_norms(pruning.network, group, 1)  # read by nothing that can be measured
    left, scores = list(range(group.channels)), torch.zeros(group.channels)
    step = 0
    while left:
        errors = torch.stack([layer.errors(left) for layer in layers]).sum(0)
        order = errors.argsort(stable=True)[: max(1, len(left) // _AT_ONCE)].tolist()
        gone = [left[place] for place in order]
        for channel in gone:
            scores[channel] = step
            step += 1
        for layer in layers:
            layer.remove(gone)
        left = [channel for channel in left if channel not in gone]
    return scores


def _open(group: Group, pruning: SurgeonPruning) -> list[_Reader]:
    found = []
    for each in group.slots:
        if each.dim is not None or each.side != "in" or each.name not in pruning.moments:
            continue
        module = pruning.network.get_submodule(each.name)
        columns: dict[int, dict[int, list[Tensor]]] = {}
        places = channel_columns(each.index.tolist(), channels_of(module, "in"), module)
        for channel, (block, own) in zip(each.channel.tolist(), places, strict=True):
            columns.setdefault(block, {}).setdefault(channel, []).append(own)
        whole, sigma = grouped_weights(module), pruning.moments[each.name].covariance()
        for block, own_columns in columns.items():
            w = whole[block]
            energy = float((w @ sigma[block] * w).sum())
            if energy > 0:
                joined = {channel: torch.cat(parts) for channel, parts in own_columns.items()}
                found.append(_Reader(w.clone(), torch.linalg.inv(sigma[block]), energy, joined))
    return found


INFO = MethodInfo(
    "obs",
    "filter pruning, least error at the layers that read the channels first; those are repaired by least squares",
    "Hassibi and Stork, NIPS 1992; Kurtić et al., 2023, arXiv 2302.04089; He et al., ICCV 2017, arXiv 1707.06168",
    needs_calibration=True,
    place="first",
)


def _create(network: nn.Module, example: Tensor, options: Mapping[str, Any]) -> SurgeonPruning:
    return SurgeonPruning(INFO, network, example, options)


register(INFO, _create)

"""Channel removal by optimal brain surgeon: least error at the layers that read the channels, then their repair.

A coupled group's channels are removed greedily. Each step removes the channel that adds least to

    Σ_layers ½ tr(G Δ Σ Δᵀ)        over the layers that read the group, Δ the change of their weights,

(G: how much the network's outputs depend on the layer's, `methods/moments/output_gradients.py`) with the weights of
each layer's remaining inputs re-fitted by least squares. For one layer with weights W, covariance Σ of its remaining
inputs and H = Σ⁻¹, removing the inputs b makes Δ Σ Δᵀ = W_b (H_bb)⁻¹ W_bᵀ; then W ← W − W_b (H_bb)⁻¹ H_b and
H ← H − H_:b (H_bb)⁻¹ H_b:. (Hassibi and Stork, NIPS 1992; for structures: Kurtić et al., 2023, arXiv 2302.04089,
ZipLM.) The order of removal is computed once, without labels. For each allocation, the layers that read the remaining
channels are then repaired in closed form (`repair.repair_layer`). A group that is read only by layers of other kinds,
or by very wide ones, is ranked by the L1 norm of its filters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from methods.base import Allocation, copy_network
from methods.filters.filter_pruning import FilterPruning
from methods.filters.records import OBS
from methods.filters.repair import channel_columns, repair_layer
from methods.graph.channels import Group, removed_channels, tied_parameters
from methods.graph.filter_norms import filter_norms
from methods.graph.narrow import channels_of
from methods.moments.layer_inputs import Moments, grouped_weights, has_measurable_inputs, measure_moments
from methods.moments.output_gradients import DAMPING, measure_output_gradients, metric_root
from models.execution.inputs import Example
from models.tasks.classification import CLASSIFICATION
from models.tasks.objective import Batch, Objective

_AT_ONCE = 64  # a step removes one channel of every 64 that remain: exact on narrow groups, fast on wide ones


class SurgeonPruning(FilterPruning):
    """Greedy channel removal with least-squares compensation; has no options."""

    def __init__(self, network: nn.Module, example: Example, options: Mapping[str, Any]) -> None:
        super().__init__(OBS, _score_by_surgery, network, example, options)
        self.moments: dict[str, Moments] = {}
        self.gradients: dict[str, Tensor] = {}
        self.calibrated = False

    def calibrate(self, batches: Iterable[Batch], objective: Objective = CLASSIFICATION) -> None:
        """Measure inputs and output gradients of all layers that read prunable channels; labels do not matter."""
        names = dict.fromkeys(name for group in self.channels.groups for name in reading_layers(group, self.network))
        loaded, twin = list(batches), copy_network(self.network).eval()
        self.moments = measure_moments(twin, names, loaded, objective)
        self.gradients = measure_output_gradients(twin, names, loaded, objective)
        self.calibrated, self._orders = True, {}
        self.sites = tuple(
            replace(site, damages=self._damages_of(group, len(site.settings)))
            for site, group in zip(self.channels.sites, self.channels.groups, strict=True)
        )

    def _damages_of(self, group: Group, settings: int) -> tuple[float, ...]:
        """The error of every setting of a group's site, in the measure of drift; none without a measured reader."""
        layers = _open_readers(group, self)
        if not layers or not _has_gradients(group, self):
            return ()
        gone_at, damages = self.removal_levels(group), [0.0]
        for level in range(1, settings):
            channels = (gone_at == level).nonzero().flatten().tolist()
            damages.append(damages[-1] + sum(layer.remove_channels(channels) for layer in layers))
        return tuple(damages)

    def compress(self, allocation: Allocation) -> nn.Module:
        small = super().compress(allocation)
        staying = self.kept_channels(allocation, self.removal_levels)
        inside, outside = (_kept_masks(self.channels.groups, staying, self.network, side) for side in ("in", "out"))
        # What repairs a tied weight for the inputs of one layer is wrong for those of the other.
        tied = {name.rpartition(".")[0] for names in tied_parameters(self.network) for name in names}
        for name in (inside.keys() & self.moments.keys()) - tied:
            module = self.network.get_submodule(name)
            everything = torch.ones(channels_of(module, "out"), dtype=torch.bool)
            repair_layer(
                small.get_submodule(name), module, self.moments[name], inside[name], outside.get(name, everything)
            )
        return small


def reading_layers(group: Group, network: nn.Module) -> list[str]:
    """The layers that read a group's channels and whose inputs can be measured."""
    names = [slots.name for slots in group.slots if slots.dim is None and slots.side == "in"]
    return [name for name in names if has_measurable_inputs(network.get_submodule(name))]


def _kept_masks(
    groups: Sequence[Group], staying: Mapping[str, Tensor], network: nn.Module, side: str
) -> dict[str, Tensor]:
    """For every module that loses channels on one side: (channels,) bool, true where a channel stays."""
    masks: dict[str, Tensor] = {}
    for slots, removed in removed_channels(groups, staying):
        if slots.dim is None and slots.side == side:
            width = channels_of(network.get_submodule(slots.name), slots.side)
            masks.setdefault(slots.name, torch.ones(width, dtype=torch.bool))[removed] = False
    return masks


@dataclass
class _Reader:
    """A layer (or one group of a grouped convolution) that reads the channels, updated as they are removed."""

    weight: Tensor  # (outputs, d), H W: squared errors of its products with inputs are twice the damage
    inverse: Tensor  # (d, d) of the covariance of the remaining inputs
    columns: dict[int, Tensor]  # channel of the group -> its columns

    def removal_errors(self, channels: Sequence[int]) -> Tensor:
        """(n,) the damage that removing each channel adds."""
        errors = torch.zeros(len(channels), dtype=torch.float64)
        read = [(place, self.columns[c]) for place, c in enumerate(channels) if c in self.columns]
        for size in {len(columns) for _, columns in read}:
            places = torch.tensor([place for place, columns in read if len(columns) == size])
            b = torch.stack([columns for _, columns in read if len(columns) == size])  # (n, size)
            blocks = self.inverse[b[:, :, None], b[:, None, :]]
            weights = self.weight[:, b].permute(1, 2, 0)  # (n, size, outputs)
            errors[places] = (weights * torch.linalg.solve(blocks, weights)).sum((1, 2)) / 2
        return errors

    def remove_channels(self, channels: Sequence[int]) -> float:
        """Remove channels, and re-fit the weights of the remaining inputs; returns the damage."""
        gone = [self.columns.pop(c) for c in channels if c in self.columns]
        if not gone:
            return 0.0
        b = torch.cat(gone)
        weights = self.weight[:, b]
        update = torch.linalg.solve(self.inverse[b][:, b], torch.cat([self.inverse[b], weights.mT], 1))
        update, fitted = update.split([len(self.inverse), len(weights)], 1)  # (b, d), (b, outputs)
        self.weight -= weights @ update
        self.inverse -= self.inverse[:, b] @ update
        return float((weights.mT * fitted).sum()) / 2


def _score_by_surgery(pruning: FilterPruning, group: Group) -> Tensor:
    """The step that removes each channel, (channels,): the later, the more the channel matters."""
    assert isinstance(pruning, SurgeonPruning)
    if not pruning.calibrated:
        raise ValueError("obs scores need calibrate() before compress()")
    layers = _open_readers(group, pruning)
    if not layers:
        return filter_norms(pruning.network, group, 1)  # read by nothing that can be measured
    remaining, scores = list(range(group.channels)), torch.zeros(group.channels)
    step = 0
    while remaining:
        errors = torch.stack([layer.removal_errors(remaining) for layer in layers]).sum(0)
        order = errors.argsort(stable=True)[: max(1, len(remaining) // _AT_ONCE)].tolist()
        gone = [remaining[place] for place in order]
        for channel in gone:
            scores[channel] = step
            step += 1
        for layer in layers:
            layer.remove_channels(gone)
        remaining = [channel for channel in remaining if channel not in gone]
    return scores


def _has_gradients(group: Group, pruning: SurgeonPruning) -> bool:
    return all(name in pruning.gradients for name in reading_layers(group, pruning.network) if name in pruning.moments)


def _open_readers(group: Group, pruning: SurgeonPruning) -> list[_Reader]:
    """The measured layers that read a group, as in the dense network, without those that no output depends on.

    Where the network cuts the gradients of one off, all outputs of all of them count alike.
    """
    readers, measured = [], _has_gradients(group, pruning)
    for slots in group.slots:
        if slots.dim is not None or slots.side != "in" or slots.name not in pruning.moments:
            continue
        module = pruning.network.get_submodule(slots.name)
        # Block of a grouped layer -> channel of the group -> its columns: flattening gives a channel several.
        columns: dict[int, dict[int, list[Tensor]]] = {}
        places = channel_columns(slots.index.tolist(), channels_of(module, "in"), module)
        for channel, (block, positions) in zip(slots.channel.tolist(), places, strict=True):
            columns.setdefault(block, {}).setdefault(channel, []).append(positions)
        weights, sigma = grouped_weights(module), pruning.moments[slots.name].covariance()
        outputs = channels_of(module, "out")
        gradients = pruning.gradients[slots.name] if measured else torch.eye(outputs, dtype=torch.float64)
        width = outputs // len(weights)
        for block, of_block in columns.items():
            of_outputs = slice(block * width, (block + 1) * width)
            if not gradients[of_outputs, of_outputs].any():
                continue
            root, _ = metric_root(gradients[of_outputs, of_outputs], DAMPING)
            joined = {channel: torch.cat(pieces) for channel, pieces in of_block.items()}
            # Of a transposed convolution, the rows of an output's taps follow each other.
            w = (root @ weights[block].reshape(width, -1)).view_as(weights[block])
            readers.append(_Reader(w, torch.linalg.inv(sigma[block]), joined))
    return readers

"""KSE: kernel sparsity and entropy (Li et al., CVPR 2019, arXiv 1812.04368).

The indicator of an input channel decides how many distinct kernels it keeps: none (the channel is no longer read),
fewer than before (k-means centroids that kernels point to), or all. Granularity G is the number of grades, T lowers the
number of kernels further. Centroids and dense kernels are trained; a centroid's gradient is the sum over its kernels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from methods.base import DENSE, Allocation, Cost, Setting
from methods.graph.narrow import Conv, is_depthwise, replace_module
from methods.graph.removal import Change, RemovalOrder
from methods.kse.kse_cost import GradedChange, GradedLayer, weight_cost
from methods.kse.kse_indicator import channel_indicator, kept_kernels
from methods.kse.records import KSE_INFO
from methods.tables.bitpack import BitReader, bits_for, pack_bits, to_bytes
from methods.tables.codebook import (
    CodebookConv,
    codebook_layers,
    kernel_area,
    kernels_by_input,
    swap_sides,
)
from methods.tables.kernel_tables import KernelTables, TableSite
from methods.tables.kmeans import kmeans
from models.errors import UserError
from models.execution.inputs import Example

Counts = npt.NDArray[np.int64]  # (C,): distinct kernels q_c of every input channel
PAIRS = tuple((G, T) for G in range(2, 7) for T in range(4))


class KSE(KernelTables):
    """One site per convolution but the first. Indicators are computed once, when first needed."""

    info = KSE_INFO
    saves_nothing = "its input channels are all alike to the indicator"
    rebuilt = ("index", "counts")

    def __init__(self, network: nn.Module, example: Example, options: Mapping[str, Any]) -> None:
        if options["alpha"] < 0 or options["neighbours"] < 1:
            raise UserError(
                f"kse needs alpha >= 0 and neighbours >= 1, not {options['alpha']}, {options['neighbours']}"
            )
        super().__init__(network, example, options)
        self._indicators: dict[str, npt.NDArray[np.float64]] = {}

    def why_dense(self, name: str, layer: Conv) -> str | None:
        convolutions = (used for used in self._uses if not isinstance(self.network.get_submodule(used), nn.Linear))
        if name == next(convolutions):
            return "the first convolution stays dense"
        if is_depthwise(layer):
            return "every input channel has kernels of its own (depthwise)"
        if layer.out_channels == layer.groups:
            return "every input channel has a single kernel"
        return None

    def table_sites(self) -> Iterator[TableSite]:
        costs = {name: self._layer_costs(name, self._uses[name].positions) for name in self._names}
        dense = sum(layer_costs[0].flops for layer_costs in costs.values())
        # One scale for all sites: the share of FLOPs that a pair (G, T) saves when all sites have it.
        strengths = [
            1 - sum(layer_costs[i].flops for layer_costs in costs.values()) / max(dense, 1)
            for i in range(len(PAIRS) + 1)
        ]
        settings = [DENSE, *(Setting(G=G, T=T) for G, T in PAIRS)]
        for name, layer_costs in costs.items():
            layer = self._conv_layer(name)
            kernels = layer.out_channels * layer.in_channels // layer.groups
            yield TableSite(name, (name,), kernels, settings, strengths, layer_costs)

    def _layer_costs(self, name: str, positions: int) -> list[Cost]:
        """The cost of the dense weight, then of every pair (G, T)."""
        layer = self._conv_layer(name)
        kernels, area = layer.out_channels // layer.groups, kernel_area(layer)
        counts = [np.full(layer.in_channels, kernels), *(self.kernel_counts(name, G, T) for G, T in PAIRS)]
        return [weight_cost(q, kernels, area, positions) for q in counts]

    def cost_change(self, order: RemovalOrder) -> Change:
        layers = []
        for site in self.sites:
            layer = self._conv_layer(site.name)
            grading = [(int(setting["G"]), int(setting["T"])) for setting in site.settings[1:]]
            layers.append(
                GradedLayer(
                    order.removal_of(site.name, "in"),
                    order.removal_of(site.name, "out"),
                    self.layer_indicator(site.name),
                    grading,
                    layer.groups,
                    kernel_area(layer),
                )
            )
        positions = {site.name: self._uses[site.name].positions for site in self.sites}
        return GradedChange(layers, order.positions_left(positions))

    def layer_indicator(self, name: str) -> npt.NDArray[np.float64]:
        """v_c of the input channels that the network has, as computed on the dense network."""
        if name not in self._indicators:
            dense = self.whole_method._conv_layer(name)
            self._indicators[name] = channel_indicator(
                kernels_by_input(dense), self.options["alpha"], self.options["neighbours"]
            )
        v = self._indicators[name]
        return v if self._kept_channels is None else v[self._kept_channels(name)[0].numpy()]

    def kernel_counts(self, name: str, G: int, T: int) -> Counts:
        """q_c of every input channel of a layer; where G and T would drop all channels, the best one stays."""
        layer, v = self._conv_layer(name), self.layer_indicator(name)
        counts = kept_kernels(v, G, T, layer.out_channels // layer.groups)
        if not counts.any():
            counts[v.argmax()] = layer.out_channels // layer.groups
        return counts

    def replace_layers(self, small: nn.Module, allocation: Allocation) -> None:
        counts = {name: self.kernel_counts(name, int(setting["G"]), int(setting["T"]))
                  for name, setting in allocation.items() if setting != DENSE}  # fmt: skip
        for name, (bank, labels) in self._cluster_kernels(counts).items():
            replace_module(small, name, build_layer(self._conv_layer(name), counts[name], bank, labels))

    def _cluster_kernels(self, counts: Mapping[str, Counts]) -> dict[str, tuple[Tensor, Tensor]]:
        """For every layer its bank, and labels (C, N / groups) that index the rows of each channel.

        Channels of equal shape and count are clustered in one batch, across layers.
        """
        kernels = {name: kernels_by_input(self._conv_layer(name)) for name in counts}
        # Channels that keep all kernels or none need no clustering.
        jobs: dict[tuple[int, int, int], list[tuple[str, npt.NDArray[np.intp]]]] = defaultdict(list)
        for name, q in counts.items():
            _, size, area = kernels[name].shape
            for count in np.unique(q[(q > 0) & (q < size)]):
                jobs[size, area, int(count)].append((name, np.flatnonzero(q == count)))
        centers: dict[tuple[str, int], Tensor] = {}
        labels = {name: _identity_labels(*table.shape[:2]).to(table.device) for name, table in kernels.items()}
        for (_, _, count), members in jobs.items():
            points = torch.cat([kernels[name][torch.from_numpy(channels)] for name, channels in members])
            means, ids = kmeans(points, count)
            owners = [(name, int(c)) for name, channels in members for c in channels]
            for (name, c), center, label in zip(owners, means, ids, strict=True):
                centers[name, c], labels[name][c] = center, label
        return {name: (_bank_rows(name, kernels[name], q, centers), labels[name]) for name, q in counts.items()}

    def store_tables(self, network: nn.Module, tensors: dict[str, Tensor]) -> None:
        """An `index` table of bytes per layer: counts per channel, then indices of ⌈log₂ q⌉ bits."""
        for name, layer in codebook_layers(network).items():
            if tensors.pop(f"{name}.counts", None) is not None:
                tensors[f"{name}.index"] = _pack_index(layer)

    def outline_layers(self, small: nn.Module, allocation: Allocation, tensors: dict[str, Tensor]) -> None:
        for name, setting in allocation.items():
            if setting == DENSE:
                continue
            bank = tensors[f"{name}.bank"].to(self.example.device)
            counts, labels = _unpack_index(tensors.pop(f"{name}.index"), self._conv_layer(name))
            replace_module(small, name, build_layer(self._conv_layer(name), counts, bank, labels))


def _identity_labels(channels: int, kernels: int) -> Tensor:
    """(channels, kernels) labels of channels that keep all kernels: each kernel has a row of its own."""
    return torch.arange(kernels).repeat(channels, 1)


def _bank_rows(name: str, kernels: Tensor, counts: Counts, centers: Mapping[tuple[str, int], Tensor]) -> Tensor:
    """(Σ q_c, K) the rows of all channels that are read, channel after channel."""
    bank = [centers.get((name, int(c)), kernels[int(c)]) for c in np.flatnonzero(counts)]
    return torch.cat([kernel.to(kernels.dtype) for kernel in bank])


def build_layer(conv: Conv, counts: Counts, bank: Tensor, labels: Tensor) -> CodebookConv:
    """The compressed layer.

    Args:
        bank: rows of the channels with counts > 0, channel after channel, (Σ q_c, K).
        labels: each kernel's row among those of its channel, (C, N / groups).
    """
    starts = torch.from_numpy(np.cumsum(counts) - counts).to(labels.device)
    index = labels + starts[:, None]
    index[torch.from_numpy(counts == 0).to(labels.device)] = len(bank)  # the row of zeros
    layer = CodebookConv(conv, nn.Parameter(bank.clone()), swap_sides(index, conv.groups))
    layer.register_buffer("counts", torch.from_numpy(counts).to(torch.int32).to(labels.device))
    return layer


def _pack_index(layer: CodebookConv) -> Tensor:
    """Bytes: the number of different counts, the counts (32 bits each), each channel's choice, then the labels."""
    counts = layer.get_buffer("counts").cpu().long()
    values, which = counts.unique(return_inverse=True)
    fields = [pack_bits(torch.tensor([len(values)]), 8), pack_bits(values, 32), pack_bits(which, bits_for(len(values)))]
    starts = counts.cumsum(0) - counts  # the first bank row of each channel
    index = swap_sides(layer.index.cpu().long(), layer.groups)
    for pointers, start, count in zip(index, starts, counts.tolist(), strict=True):
        if 0 < count < index.shape[1]:
            fields.append(pack_bits(pointers - start, bits_for(count)))
    return to_bytes(*fields)


def _unpack_index(packed: Tensor, conv: Conv) -> tuple[Counts, Tensor]:
    """The counts, and labels (C, N / groups) on the layer's device."""
    reader = BitReader(packed)
    values = reader.read_values(int(reader.read_values(1, 8)), 32)
    counts = values[reader.read_values(conv.in_channels, bits_for(len(values)))]
    kernels = conv.out_channels // conv.groups
    labels = _identity_labels(conv.in_channels, kernels)
    for channel, count in enumerate(counts.tolist()):
        if 0 < count < kernels:
            labels[channel] = reader.read_values(kernels, bits_for(count))
    return counts.numpy(), labels.to(conv.weight.device)

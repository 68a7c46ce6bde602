"""KSE: kernel sparsity and entropy (Li et al., CVPR 2019, arXiv 1812.04368).

Every input channel of a convolution gets as many distinct 2-D kernels as its indicator deserves: none (the channel is
no longer read), fewer than there were (k-means centroids that kernels point to), or all. Granularity G says in how
many grades, T how much fewer. Centroids and dense kernels train; a centroid's gradient is the sum over its kernels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from methods.base import DENSE, Allocation, Cost, MethodInfo, Setting, copy_network
from methods.graph.removal import Change, RemovalOrder
from methods.graph.trace import LayerUse
from methods.kse.kse_cost import Graded, GradedChange, weight_cost
from methods.kse.kse_indicator import indicator, kept_kernels
from methods.registry import register
from methods.tables.bitpack import BitReader, bits_for, pack_bits, to_bytes
from methods.tables.codebook import (
    CodebookConv2d,
    codebook_layers,
    kernels_by_input,
    replace_module,
    swap_sides,
)
from methods.tables.kernel_tables import KernelTables, TableSite
from methods.tables.kmeans import kmeans
from models.errors import UserError

Counts = npt.NDArray[np.int64]  # (C,): distinct kernels q_c of every input channel
PAIRS = tuple((G, T) for G in range(2, 7) for T in range(4))
INFO = MethodInfo(
    name="kse",
    summary="fewer distinct kernels per input channel, by kernel sparsity and entropy; weak channels are not read",
    source="Li et al., CVPR 2019, arXiv 1812.04368",
    shrinks_channels=False,
    place="second",
    options={"alpha": 1.0, "neighbours": 5},
)


class KSE(KernelTables):
    """One site per convolution but the first; indicators are computed when first asked for, each once."""

    info = INFO
    saves_nothing = "its input channels are all alike to the indicator"

    def __init__(self, network: nn.Module, example: Tensor, options: Mapping[str, Any]) -> None:
        if options["alpha"] < 0 or options["neighbours"] < 1:
            raise UserError(
                f"kse needs alpha >= 0 and neighbours >= 1, not {options['alpha']}, {options['neighbours']}"
            )
        super().__init__(network, example, options)
        self._indicators: dict[str, npt.NDArray[np.float64]] = {}

    def why_dense(self, name: str, layer: nn.Conv2d, use: LayerUse) -> str | None:
        convolutions = (other for other in self._uses if not isinstance(self.network.get_submodule(other), nn.Linear))
        if name == next(convolutions):
            return "the first convolution stays dense"
        if layer.out_channels == layer.groups:
            return "every input channel has a single kernel (depthwise)"
        return "not called in evaluation" if use.calls == 0 else None

    def table_sites(self) -> Iterator[TableSite]:
        costs = {name: self._costs(name, self._uses[name].positions) for name in self._names}
        dense = sum(row[0].flops for row in costs.values())
        # On a scale common to all sites: what the pair (G, T), given to all of them, takes off.
        strengths = [1 - sum(row[i].flops for row in costs.values()) / max(dense, 1) for i in range(len(PAIRS) + 1)]
        settings = [DENSE, *(Setting(G=G, T=T) for G, T in PAIRS)]
        for name, row in costs.items():
            layer = self._layer(name)
            kernels = layer.out_channels * layer.in_channels // layer.groups
            yield TableSite(name, (name,), kernels, settings, strengths, row)

    def _costs(self, name: str, positions: int) -> list[Cost]:
        """Of the dense weight, then of every pair."""
        layer = self._layer(name)
        kernels, area = layer.out_channels // layer.groups, layer.kernel_size[0] * layer.kernel_size[1]
        counts = [np.full(layer.in_channels, kernels), *(self.kernel_counts(name, G, T) for G, T in PAIRS)]
        return [weight_cost(q, kernels, area, positions) for q in counts]

    def change(self, order: RemovalOrder) -> Change:
        layers = []
        for site in self.sites:
            layer = self._layer(site.name)
            pairs = [(int(setting["G"]), int(setting["T"])) for setting in site.settings[1:]]
            layers.append(
                Graded(
                    order.removal_of(site.name, "in"),
                    order.removal_of(site.name, "out"),
                    self._indicator(site.name),
                    pairs,
                    layer.groups,
                    layer.kernel_size[0] * layer.kernel_size[1],
                    self._uses[site.name].positions,
                )
            )
        return GradedChange(layers)

    def _indicator(self, name: str) -> npt.NDArray[np.float64]:
        """v_c of the input channels that are there, as it was in the whole network."""
        if name not in self._indicators:
            whole = self.whole._layer(name)
            self._indicators[name] = indicator(
                whole.weight, whole.groups, self.options["alpha"], self.options["neighbours"]
            )
        v = self._indicators[name]
        return v if self._kept is None else v[self._kept(name)[0].numpy()]

    def kernel_counts(self, name: str, G: int, T: int) -> Counts:
        """q_c of every input channel of a layer, at any G and T; the best one stays if all would be dropped."""
        layer, v = self._layer(name), self._indicator(name)
        counts = kept_kernels(v, G, T, layer.out_channels // layer.groups)
        if not counts.any():
            counts[v.argmax()] = layer.out_channels // layer.groups
        return counts

    def compress(self, allocation: Allocation) -> nn.Module:
        counts = {name: self.kernel_counts(name, int(setting["G"]), int(setting["T"]))
                  for name, setting in allocation.items() if setting != DENSE}  # fmt: skip
        small = copy_network(self.network)
        for name, (rows, labels) in self._clustered(counts).items():
            replace_module(small, name, build_layer(self._layer(name), counts[name], rows, labels))
        return small

    def _clustered(self, counts: Mapping[str, Counts]) -> dict[str, tuple[Tensor, Tensor]]:
        """Bank rows, and labels (C, N) into each channel's own rows, of every layer.

        Channels of equal shape and count are clustered together, whatever their layer.
        """
        kernels = {
            name: kernels_by_input(self._layer(name).weight.detach(), self._layer(name).groups) for name in counts
        }
        jobs: dict[tuple[int, int, int], list[tuple[str, npt.NDArray[np.intp]]]] = defaultdict(list)
        for name, q in counts.items():
            _, size, area = kernels[name].shape
            for count in np.unique(q[(q > 0) & (q < size)]):
                jobs[size, area, int(count)].append((name, np.flatnonzero(q == count)))
        centers: dict[tuple[str, int], Tensor] = {}
        labels = {name: _identity_labels(table) for name, table in kernels.items()}
        for (_, _, count), members in jobs.items():
            points = torch.cat([kernels[name][torch.from_numpy(channels)] for name, channels in members])
            found, ids = kmeans(points, count)
            owners = [(name, int(c)) for name, channels in members for c in channels]
            for (name, c), rows, label in zip(owners, found, ids, strict=True):
                centers[name, c], labels[name][c] = rows, label
        return {name: (_bank(name, kernels[name], q, centers), labels[name]) for name, q in counts.items()}

    def pack(self, network: nn.Module) -> dict[str, Tensor]:
        """The state, with one `index` table of bytes per layer: counts per channel, then indices at ⌈log₂ q⌉ bits."""
        tensors = super().pack(network)
        for name, layer in codebook_layers(network).items():
            tensors.pop(f"{name}.counts")
            tensors[f"{name}.index"] = _pack_index(layer)
        return tensors

    def unpack(self, allocation: Allocation, tensors: Mapping[str, Tensor]) -> nn.Module:
        network = copy_network(self.network)
        plain = dict(tensors)
        for name in self._names:
            if f"{name}.bank" in tensors:
                bank = plain[f"{name}.bank"].to(self.example.device)
                counts, labels = _unpack_index(plain.pop(f"{name}.index"), self._layer(name))
                replace_module(network, name, build_layer(self._layer(name), counts, bank, labels))
        return self._load_rest(network, plain, rebuilt=("index", "counts"))


def _identity_labels(kernels: Tensor) -> Tensor:
    """(C, N): every kernel its own row, as in a channel that is left alone."""
    return torch.arange(kernels.shape[1], device=kernels.device).repeat(len(kernels), 1)


def _bank(name: str, kernels: Tensor, counts: Counts, centers: Mapping[tuple[str, int], Tensor]) -> Tensor:
    """Rows of all channels that are read, channel after channel: (Σ q_c, Kh·Kw)."""
    rows = [centers.get((name, int(c)), kernels[int(c)]) for c in np.flatnonzero(counts)]
    return torch.cat([each.to(kernels.dtype) for each in rows])


def build_layer(conv: nn.Conv2d, counts: Counts, bank: Tensor, labels: Tensor) -> CodebookConv2d:
    """The compressed layer.

    Args:
        bank: rows of the channels with counts > 0, channel after channel, (Σ q_c, Kh·Kw).
        labels: each kernel's row within its channel's, (C, N / groups).
    """
    starts = torch.from_numpy(np.cumsum(counts) - counts).to(labels.device)
    rows = labels + starts[:, None]
    rows[torch.from_numpy(counts == 0).to(labels.device)] = len(bank)  # the row of zeros
    layer = CodebookConv2d(conv, nn.Parameter(bank.clone()), swap_sides(rows, conv.groups))
    layer.register_buffer("counts", torch.from_numpy(counts).to(torch.int32).to(labels.device))
    return layer


def _pack_index(layer: CodebookConv2d) -> Tensor:
    """Bytes: how many different counts, those (32 bits each), which one each channel has, then the labels."""
    counts = layer.get_buffer("counts").cpu().long()
    values, which = counts.unique(return_inverse=True)
    fields = [pack_bits(torch.tensor([len(values)]), 8), pack_bits(values, 32), pack_bits(which, bits_for(len(values)))]
    starts = counts.cumsum(0) - counts
    index = swap_sides(layer.index.cpu().long(), layer.groups)
    for rows, start, count in zip(index, starts, counts.tolist(), strict=True):
        if 0 < count < index.shape[1]:
            fields.append(pack_bits(rows - start, bits_for(count)))
    return to_bytes(*fields)


def _unpack_index(packed: Tensor, conv: nn.Conv2d) -> tuple[Counts, Tensor]:
    """The counts, and labels (C, N / groups) on the layer's device."""
    reader = BitReader(packed)
    values = reader.read(int(reader.read(1, 8)), 32)
    counts = values[reader.read(conv.in_channels, bits_for(len(values)))]
    kernels = conv.out_channels // conv.groups
    labels = torch.arange(kernels).repeat(conv.in_channels, 1)
    for channel, count in enumerate(counts.tolist()):
        if 0 < count < kernels:
            labels[channel] = reader.read(kernels, bits_for(count))
    return counts.numpy(), labels.to(conv.weight.device)


register(INFO, KSE)

"""Kernel clustering (Son et al., ECCV 2018): kernels as signed scales times the centroids of a codebook.

Kernels are divided by a = sign(center weight) · norm and clustered; each becomes a · centroid, where transforms flip or
rotate the centroid. Centroids and scales are trained, indices stay. Kernels of zeros are pruned. FLOPs count one
convolution for all kernels of a filter (or of an input channel) that share a codeword.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from methods.base import (
    DENSE,
    Allocation,
    Centroids,
    Cost,
    Setting,
    Site,
    Tuning,
)
from methods.clustering.records import KERNEL_CLUSTERING
from methods.clustering.scaled_kernels import (
    ClusteredTuning,
    in_16_bits,
    pack_codewords,
    scaled_layers,
    signed_scales,
    unpack_codewords,
)
from methods.clustering.scopes import Share, centroid_count, ladder_of_k, share_layers
from methods.clustering.shared_work import ClusteredSite, SharedChange, SharedLayer, shared_convolutions
from methods.graph.narrow import Conv, is_depthwise, replace_module
from methods.graph.removal import Change, RemovalOrder, cut_table
from methods.tables.bitpack import bits_for
from methods.tables.codebook import (
    CodebookConv,
    kernel_area,
    kernels_by_output,
)
from methods.tables.kernel_tables import KernelTables, TableSite
from methods.tables.table_cost import sum_costs
from methods.tables.vector_quantizer import fit_codebooks, kernel_symmetries, recentre_clusters
from models.errors import UserError
from models.execution.inputs import Example


@dataclass(frozen=True)
class Fit:
    """A codebook (k, K), and codewords (N, C / groups) of each of its layers; pruned kernels have k·t."""

    centers: Tensor
    codewords: dict[str, Tensor]


class KernelClustering(KernelTables):
    """One site per codebook. All sizes are fitted when first needed, as their cost depends on shared codewords."""

    info = KERNEL_CLUSTERING
    saves_nothing = "too few kernels for a codebook to save anything"
    rebuilt = ("bank", "index", "scale", "orders")

    def __init__(self, network: nn.Module, example: Example, options: Mapping[str, Any]) -> None:
        if options["transforms"] not in (1, 2, 4, 8):
            raise UserError(f"kernel-clustering knows 1, 2, 4 or 8 transforms, not {options['transforms']!r}")
        largest = centroid_count(options["largest"], "kernel-clustering")
        super().__init__(network, example, options)
        shapes = {name: self._kernel_shape(name) for name in self._names}
        self._shares = share_layers(options["scope"], shapes, largest)
        for name in shapes.keys() - {layer for share in self._shares for layer in share.layers}:
            self._left_dense[name] = "in none of the listed ranges"

    def why_dense(self, name: str, layer: Conv) -> str | None:
        if kernel_area(layer) == 1:
            return "its kernels hold a single weight"
        if is_depthwise(layer):
            return "no two kernels share an output (depthwise)"
        return None

    @cached_property
    def _codebook_fits(self) -> dict[str, dict[int, Fit]]:
        """The fits of each codebook, by number of centroids."""
        return {share.name: self._fit_share(share) for share in self._shares}

    def _kernel_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._conv_layer(name).kernel_size)

    def _kernel_orders(self, name: str) -> Tensor:
        return kernel_symmetries(self._kernel_shape(name), self.options["transforms"]).to(self.example.device)

    def _fit_share(self, share: Share) -> dict[int, Fit]:
        """Fits for every k of the ladder, to the normalised kernels of all layers that share the codebook."""
        orders = self._kernel_orders(share.layers[0])
        # Kernels of zeros have no direction: they are pruned, not clustered.
        alive = {name: self._kernel_scales(name) != 0 for name in share.layers}
        points = torch.cat([self._normalised_kernels(name)[alive[name]] for name in share.layers])
        counts = ladder_of_k(share.largest, len(points))
        fits: dict[int, Fit] = {}
        if not counts:
            return fits
        for k, book in zip(counts, fit_codebooks(points, counts, orders, self.options["seed"]), strict=True):
            pieces = book.codewords.to(torch.int32).split([int(mask.sum()) for mask in alive.values()])
            tables = {}
            for (name, mask), piece in zip(alive.items(), pieces, strict=True):
                tables[name] = torch.full(mask.shape, k * len(orders), dtype=torch.int32, device=piece.device)
                tables[name][mask] = piece
            fits[k] = Fit(book.centers, tables)
        return fits

    def _kernel_scales(self, name: str) -> Tensor:
        kernels = kernels_by_output(self._conv_layer(name)).float()
        return signed_scales(kernels.unflatten(2, self._kernel_shape(name)))

    def _normalised_kernels(self, name: str) -> Tensor:
        """(N, C / groups, K) kernels over their scales; kernels of zeros stay zeros."""
        scale = self._kernel_scales(name)[..., None]
        return kernels_by_output(self._conv_layer(name)).float() / torch.where(scale == 0, 1, scale)

    def table_sites(self) -> Iterator[TableSite]:
        # A given k has the same strength at all sites; dense counts as twice the largest codebook.
        top = math.log2(2 * max((share.largest for share in self._shares), default=1))
        for share in self._shares:
            weights = {name: self._conv_layer(name).weight.numel() for name in share.layers}
            dense = [Cost(self._uses[name].positions * count, count, 4 * count) for name, count in weights.items()]
            sizes = list(self._codebook_fits[share.name])
            costs = [sum_costs(dense), *(self._share_cost(share, k) for k in sizes)]
            strengths = [0.0, *(1 - math.log2(k) / top for k in sizes)]
            kernels = sum(self._kernel_scales(name).numel() for name in share.layers)
            yield TableSite(
                share.name, share.layers, kernels, [DENSE, *(Setting(k=k) for k in sizes)], strengths, costs
            )

    def _share_cost(self, share: Share, k: int) -> Cost:
        """The cost of all layers of a codebook: centroids once; per kernel a scale, an index and a transform."""
        area, transforms = kernel_area(self._conv_layer(share.layers[0])), len(self._kernel_orders(share.layers[0]))
        per_layer = []
        for name, codewords in self._codebook_fits[share.name][k].codewords.items():
            kernels, groups = codewords.numel(), self._conv_layer(name).groups
            flops = self._uses[name].positions * area * shared_convolutions(codewords, groups, k * transforms)
            bits = kernels * (bits_for(k) + bits_for(transforms))
            per_layer.append(Cost(flops, kernels, 2 * kernels + -(-bits // 8)))
        return sum_costs([Cost(0, k * area, 4 * k * area), *per_layer])

    def cost_change(self, order: RemovalOrder) -> Change:
        positions = {name: self._uses[name].positions for site in self.sites for name in site.layers}
        return SharedChange([self._clustered_site(site, order) for site in self.sites], order.positions_left(positions))

    def _clustered_site(self, site: Site, order: RemovalOrder) -> ClusteredSite:
        """The codewords and channels of a site's layers, for its cost when a first method removes channels."""
        fits = [self._codebook_fits[site.name][int(setting["k"])] for setting in site.settings[1:]]
        layers = [
            SharedLayer(
                order.removal_of(name, "in"),
                order.removal_of(name, "out"),
                [fit.codewords[name].cpu().numpy() for fit in fits],
                self._conv_layer(name).groups,
            )
            for name in site.layers
        ]
        sizes = [len(fit.centers) for fit in fits]
        area = kernel_area(self._conv_layer(site.layers[0]))
        return ClusteredSite(layers, sizes, len(self._kernel_orders(site.layers[0])), area)

    def _fit_of(self, share: Share, k: int) -> Fit:
        """The codebook of k centroids for the remaining kernels of the layers that share it.

        Kernels keep their codewords of the dense network; centroids become the means of the remaining kernels.
        """
        fit = self.whole_method._codebook_fits[share.name][k]
        if self._kept_channels is None:
            return fit
        codewords = {name: cut_table(table, self._kept_channels(name), self._conv_layer(name).groups)
                     for name, table in fit.codewords.items()}  # fmt: skip
        orders = self._kernel_orders(share.layers[0])
        alive = {name: table != k * len(orders) for name, table in codewords.items()}
        points = torch.cat([self._normalised_kernels(name)[mask] for name, mask in alive.items()])
        words = torch.cat([codewords[name][mask] for name, mask in alive.items()]).long()
        return Fit(recentre_clusters(points, fit.centers, orders, words)[0], codewords)

    def replace_layers(self, small: nn.Module, allocation: Allocation) -> None:
        for share in self._clustered_shares(allocation):
            fit = self._fit_of(share, int(allocation[share.name]["k"]))
            scales = {name: self._kernel_scales(name) for name in share.layers}
            self._install_layers(small, share, fit.centers, fit.codewords, scales)

    def _clustered_shares(self, allocation: Allocation) -> list[Share]:
        return [share for share in self._shares if allocation.get(share.name, DENSE) != DENSE]

    def _install_layers(
        self,
        small: nn.Module,
        share: Share,
        centers: Tensor,
        codewords: Mapping[str, Tensor],
        scales: Mapping[str, Tensor],
    ) -> None:
        """Replace the layers of a codebook by compressed ones on a common bank of centroids; in place."""
        orders = self._kernel_orders(share.layers[0])
        bank = nn.Parameter(centers.to(self._conv_layer(share.layers[0]).weight.dtype, copy=True))
        for name in share.layers:
            # Kernels that were pruned stay so, even where the first method's repair has filled them again.
            unpruned = codewords[name] != len(bank) * len(orders)
            scale = in_16_bits(torch.where(unpruned, scales[name], 0).to(bank.dtype))
            symmetries = orders if len(orders) > 1 else None
            layer = CodebookConv(self._conv_layer(name), bank, codewords[name], scale=scale, orders=symmetries)
            replace_module(small, name, layer)

    def tuning(self, allocation: Allocation | None, network: nn.Module, *, steps: int, lr: float) -> Tuning:
        return ClusteredTuning(lr)

    def centroids(self, network: nn.Module) -> list[Centroids]:
        """Every codebook in use. Kernels count for their centroid under any transform; pruned kernels do not count."""
        codebooks, layers = [], scaled_layers(network)
        for share in self._shares:
            members = [layers[name] for name in share.layers if name in layers]
            if not members:
                continue
            bank, transforms = members[0].bank.detach(), len(self._kernel_orders(share.layers[0]))
            words = torch.cat([layer.index.long().flatten() for layer in members]) // transforms
            counts = torch.bincount(words, minlength=len(bank) + 1)[: len(bank)]
            order = counts.argsort(descending=True, stable=True)
            # Kernels of one dimension are drawn as a row, planes of three dimensions one below the other.
            pictures = bank[order].unflatten(1, (-1, members[0].kernel_size[-1]))
            codebooks.append(Centroids(share.name, pictures, counts[order]))
        return codebooks

    def store_tables(self, network: nn.Module, tensors: dict[str, Tensor]) -> None:
        """Centroids once per codebook, scales in 16 bits, codewords of ⌈log₂ k⌉ + log₂ t bits."""
        layers = scaled_layers(network)
        for share in self._shares:
            if share.layers[0] not in layers:
                continue
            for name in share.layers:
                k, orders = len(layers[name].bank), tensors.pop(f"{name}.orders", None)
                tensors[f"{name}.index"] = pack_codewords(layers[name].index, k, 1 if orders is None else len(orders))
                tensors[f"{name}.scale"] = tensors[f"{name}.scale"].half()
                if name != share.layers[0]:
                    del tensors[f"{name}.bank"]

    def outline_layers(self, small: nn.Module, allocation: Allocation, tensors: dict[str, Tensor]) -> None:
        device = self.example.device
        for share in self._clustered_shares(allocation):
            bank = tensors.pop(f"{share.layers[0]}.bank").to(device)
            scales = {name: tensors.pop(f"{name}.scale").to(device, bank.dtype) for name in share.layers}
            words = len(self._kernel_orders(share.layers[0])) * len(bank)
            codewords = {}
            for name, scale in scales.items():
                table = unpack_codewords(tensors.pop(f"{name}.index"), scale.numel(), len(bank), words // len(bank))
                codewords[name] = torch.where(scale == 0, words, table.to(device).view_as(scale))
            self._install_layers(small, share, bank, codewords, scales)

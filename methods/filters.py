"""Filter pruning: coupled groups of output channels are ranked by a criterion and the smallest removed.

Criteria per filter W[n] (all scores: small = removed first):
    l1, l2     norm of W[n]                                                 (Li et al., ICLR 2017)
    fpgm       Σ_j ‖W[n] − W[j]‖₂, small = replaceable by the others         (He et al., CVPR 2019)
    bn-scale   |γ_n| of the norm that follows                               (Liu et al., ICCV 2017)
    taylor     |Σ w · ∂L/∂w| over W[n], L the mean loss over calibration batches  (Molchanov et al., CVPR 2019)
    random     the control
Within a coupled group the members' scores are reduced (mean) per channel. The result is a narrower network.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from methods.base import Allocation, Compressor, MethodInfo, copy_network
from methods.channel_sites import ChannelGroups, strongest
from methods.channels import Group
from methods.filter_norms import filter_norms, filters_of, mean_per_channel
from methods.narrow import Norm
from methods.registry import register


class FilterPruning(Compressor):
    """Filter pruning by one criterion; options: seed."""

    def __init__(
        self, info: MethodInfo, criterion: Criterion, network: nn.Module, example: Tensor, options: Mapping[str, Any]
    ) -> None:
        super().__init__(network, example, options)
        self.info = info
        self._criterion = criterion
        self._channels = ChannelGroups(network, example)
        self.sites, self.skipped = self._channels.sites, self._channels.skipped
        self.cost = self._channels.cost
        self._gradients: dict[str, Tensor] = {}
        self._scores: dict[str, Tensor] = {}

    def calibrate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Accumulate w · ∂L/∂w of every weight over the batches, in evaluation mode, on a copy."""
        twin = copy_network(self.network).eval().requires_grad_(True)
        count = 0
        totals = {name: torch.zeros_like(p) for name, p in twin.named_parameters() if p.dim() > 1}
        for inputs, labels in batches:
            twin.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(twin(inputs), labels).backward()
            count += 1
            for name, parameter in twin.named_parameters():
                if name in totals and parameter.grad is not None:
                    totals[name] += (parameter * parameter.grad).detach()
        self._gradients = {name: (total / max(count, 1)).cpu() for name, total in totals.items()}
        self._scores = {}

    def compress(self, allocation: Allocation) -> nn.Module:
        small = copy_network(self.network)
        self._channels.narrow(small, self.kept(allocation, self._score))
        return small

    def unpack(self, allocation: Allocation, tensors: Mapping[str, Tensor]) -> nn.Module:
        """Which channels were kept does not matter any more: only the widths do, so nothing is scored."""
        small = copy_network(self.network)
        self._channels.narrow(small, self.kept(allocation, lambda group: torch.zeros(group.channels)))
        small.load_state_dict(dict(tensors))
        return small

    def kept(self, allocation: Allocation, score: Callable[[Group], Tensor]) -> dict[str, Tensor]:
        """For every site that loses channels: the ascending channels of highest score that stay."""
        kept = {}
        for site, group in zip(self.sites, self._channels.groups, strict=True):
            level = site.level_of(allocation[site.name]) if site.name in allocation else 0
            if level:
                classes = int(group.partition.max()) + 1
                kept[site.name] = strongest(score(group), group.partition, site.channels - level * classes)
        return kept

    @torch.no_grad()
    def _score(self, group: Group) -> Tensor:
        if group.name not in self._scores:
            self._scores[group.name] = self._criterion(self, group)
        return self._scores[group.name]


Criterion = Callable[[FilterPruning, Group], Tensor]


def _norm(p: int, pruning: FilterPruning, group: Group) -> Tensor:
    return filter_norms(pruning.network, group, p)


def _fpgm(pruning: FilterPruning, group: Group) -> Tensor:
    distances = ((slots, torch.cdist(rows, rows).sum(1)) for slots, rows in filters_of(pruning.network, group))
    return mean_per_channel(group, distances)


def _bn_scale(pruning: FilterPruning, group: Group) -> Tensor:
    """|γ| of the group's norms; a group without any falls back on the L1 norm of its filters."""
    scales = []
    for each in group.slots:
        module = None if each.dim is not None else pruning.network.get_submodule(each.name)
        if isinstance(module, Norm) and module.affine:
            scales.append((each, module.weight.detach().cpu().float().abs()))
    return mean_per_channel(group, scales) if scales else _norm(1, pruning, group)


def _taylor(pruning: FilterPruning, group: Group) -> Tensor:
    """First-order change of the calibration loss without filter n: |mean over batches of Σ w · ∂L/∂w|.

    Products keep their sign within a filter and from batch to batch, and may cancel; the magnitude is taken last, per
    filter. The paper squares per batch before it averages.
    """
    if not pruning._gradients:
        raise ValueError("taylor scores need calibrate() before compress()")
    scored = []
    for slots, _ in filters_of(pruning.network, group):
        products = pruning._gradients[f"{slots.name}.weight"]
        dim = 1 if getattr(pruning.network.get_submodule(slots.name), "transposed", False) else 0
        scored.append((slots, products.transpose(0, dim).flatten(1).sum(1).abs()))
    return mean_per_channel(group, scored)


def _random(pruning: FilterPruning, group: Group) -> Tensor:
    seed = zlib.crc32(group.name.encode()) ^ int(pruning.options["seed"])
    return torch.rand(group.channels, generator=torch.Generator().manual_seed(seed))


def _register(name: str, criterion: Criterion, summary: str, source: str, **capabilities: Any) -> None:
    info = MethodInfo(name, f"filter pruning, {summary}", source, **capabilities)
    register(info, partial(FilterPruning, info, criterion))


_register("l1", partial(_norm, 1), "smallest L1 norm first", "Li et al., ICLR 2017, arXiv 1608.08710")
_register("l2", partial(_norm, 2), "smallest L2 norm first", "He et al., IJCAI 2018, arXiv 1808.06866")
_register("fpgm", _fpgm, "nearest to the geometric median first", "He et al., CVPR 2019, arXiv 1811.00250")
_register("bn-scale", _bn_scale, "smallest batch-norm scale first", "Liu et al., ICCV 2017, arXiv 1708.06519")
_register(
    "taylor",
    _taylor,
    "smallest first-order change of the loss first",
    "Molchanov et al., CVPR 2019, arXiv 1906.10771",
    needs_calibration=True,
)
_register("random", _random, "at random: the control", "control", options={"seed": 0})

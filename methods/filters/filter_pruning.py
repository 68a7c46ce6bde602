"""Filter pruning: coupled groups of output channels are ranked by a criterion and the smallest removed.

Criteria per filter W[n] (all scores: small = removed first):
    l1, l2     norm of W[n]                                                 (Li et al., ICLR 2017)
    fpgm       Σ_j ‖W[n] − W[j]‖₂, small = replaceable by the others         (He et al., CVPR 2019)
    bn-scale   |γ_n| of the norm that follows                               (Liu et al., ICCV 2017)
    taylor     |Σ w · ∂L/∂w| over W[n], mean over calibration batches        (Molchanov et al., CVPR 2019)
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
from methods.graph.channel_sites import ChannelGroups, gone_at
from methods.graph.channels import LAYERS, Group
from methods.graph.filter_norms import by_filter, filter_norms, filters_of, mean_per_channel
from methods.graph.narrow import Norm
from methods.graph.removal import RemovalOrder
from methods.registry import register
from models.execution.gradients import ForwardGuard, run_backward


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
        self._changes: dict[str, Tensor] = {}
        self._orders: dict[str, Tensor] = {}

    def calibrate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Per batch, in evaluation mode on a copy: how much the loss changes to first order without each filter."""
        twin = copy_network(self.network).eval().requires_grad_(True)
        layers = {name: module for name, module in twin.named_modules() if _weighed(module)}
        totals: dict[str, Tensor] = {}
        count, guard = 0, ForwardGuard()
        for inputs, labels in batches:
            twin.zero_grad(set_to_none=True)
            with guard.forward(inputs.device):
                loss = nn.functional.cross_entropy(twin(inputs), labels)
            run_backward(loss)
            count += 1
            for name, module in layers.items():
                change = _first_order_change(module)
                totals[name] = totals[name] + change if name in totals else change
        self._changes = {name: total / count for name, total in totals.items()}
        self._orders = {}

    def compress(self, allocation: Allocation) -> nn.Module:
        small = copy_network(self.network)
        self._channels.narrow(small, self.kept(allocation, self._gone_at))
        return small

    def unpack(self, allocation: Allocation, tensors: Mapping[str, Tensor]) -> nn.Module:
        small = self.outline(allocation)
        small.load_state_dict(dict(tensors))
        return small

    def outline(self, allocation: Allocation) -> nn.Module:
        """A network of these widths; which channels it keeps does not matter to what is put in, so none is scored."""
        small = copy_network(self.network)
        alike = self.kept(allocation, lambda group: gone_at(torch.zeros(group.channels), group.partition))
        self._channels.narrow(small, alike)
        return small

    def kept(self, allocation: Allocation, order: Callable[[Group], Tensor]) -> dict[str, Tensor]:
        """For every site that loses channels: the ascending ones that stay; `order` as from `gone_at`."""
        kept = {}
        for level, group in zip(self.levels(allocation), self._channels.groups, strict=True):
            if level:
                kept[group.name] = (order(group) > int(level)).nonzero().flatten()
        return kept

    def removal_order(self) -> RemovalOrder:
        """Which channels go at which level of their site."""
        groups = self._channels.groups
        return RemovalOrder(self.network, groups, {group.name: self._gone_at(group) for group in groups})

    @torch.no_grad()
    def _gone_at(self, group: Group) -> Tensor:
        if group.name not in self._orders:
            self._orders[group.name] = gone_at(self._criterion(self, group), group.partition)
        return self._orders[group.name]


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


def _weighed(module: nn.Module) -> bool:
    return isinstance(module, LAYERS) and "weight" in module._parameters


def _first_order_change(module: nn.Module) -> Tensor:
    """(n_filters,) |Σ w · ∂L/∂w| over each filter; 0 where no gradient arrived."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    products = torch.zeros_like(weight) if weight.grad is None else weight.detach() * weight.grad
    return by_filter(module, products).sum(1).abs().float().cpu()


def _taylor(pruning: FilterPruning, group: Group) -> Tensor:
    """First-order change of the calibration loss without filter n: the mean over batches of |Σ w · ∂L/∂w|.

    Products may cancel within a filter, never from batch to batch. The paper squares where this takes the magnitude.
    """
    if not pruning._changes:
        raise ValueError("taylor scores need calibrate() before compress()")
    return mean_per_channel(
        group, ((slots, pruning._changes[slots.name]) for slots, _ in filters_of(pruning.network, group))
    )


def _random(pruning: FilterPruning, group: Group) -> Tensor:
    seed = zlib.crc32(group.name.encode()) ^ int(pruning.options["seed"])
    return torch.rand(group.channels, generator=torch.Generator().manual_seed(seed))


def _register(name: str, criterion: Criterion, summary: str, source: str, **capabilities: Any) -> None:
    info = MethodInfo(name, f"filter pruning, {summary}", source, place="first", **capabilities)
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

"""Filter pruning: of every coupled group, the channels with the smallest scores are removed.

Scores per filter W[n], the smallest removed first:
    l1, l2     norm of W[n]                                                 (Li et al., ICLR 2017)
    fpgm       Σ_j ‖W[n] − W[j]‖₂, small = replaceable by the others         (He et al., CVPR 2019)
    bn-scale   |γ_n| of the norm that follows                               (Liu et al., ICCV 2017)
    taylor     |Σ w · ∂L/∂w| over W[n], mean over calibration batches        (Molchanov et al., CVPR 2019)
    random     the control
A channel's score is the mean over the filters of its coupled group. The result is a plain, narrower network.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from methods.base import Allocation, Compressor, MethodInfo, copy_network
from methods.graph.channel_sites import ChannelGroups, removal_levels
from methods.graph.channels import Group
from methods.graph.filter_norms import by_filter, filter_norms, filters_of, mean_per_channel
from methods.graph.narrow import LAYERS, Norm
from methods.graph.removal import RemovalOrder
from models.execution.gradients import ForwardGuard, run_backward
from models.execution.inputs import Example
from models.tasks.classification import CLASSIFICATION
from models.tasks.objective import Batch, Objective


class FilterPruning(Compressor):
    """Filter pruning by one criterion."""

    def __init__(
        self, info: MethodInfo, criterion: Criterion, network: nn.Module, example: Example, options: Mapping[str, Any]
    ) -> None:
        super().__init__(network, example, options)
        self.info = info
        self._criterion = criterion
        self.channels = ChannelGroups(network, example)
        self.network = self.channels.network
        self.sites, self.skipped = self.channels.sites, self.channels.skipped
        self.cost = self.channels.cost
        self._changes: dict[str, Tensor] = {}
        self._orders: dict[str, Tensor] = {}

    def calibrate(self, batches: Iterable[Batch], objective: Objective = CLASSIFICATION) -> None:
        """Measure, on a copy in evaluation mode, how much the loss changes to first order without each filter."""
        twin = copy_network(self.network).eval().requires_grad_(True)
        layers = {name: module for name, module in twin.named_modules() if _has_own_weight(module)}
        totals: dict[str, Tensor] = {}
        count, guard, device = 0, ForwardGuard(), self.example.device
        for batch in batches:
            twin.zero_grad(set_to_none=True)
            with guard.forward(device):
                loss = objective.calibration_loss(twin, batch)
            run_backward(loss)
            count += 1
            for name, module in layers.items():
                change = _first_order_change(module)
                totals[name] = totals[name] + change if name in totals else change
        self._changes = {name: total / count for name, total in totals.items()}
        self._orders = {}

    def compress(self, allocation: Allocation) -> nn.Module:
        """A plain, narrower network."""
        small = copy_network(self.network)
        self.channels.narrow_network(small, self.kept_channels(allocation, self.removal_levels))
        return small

    @property
    def unregistered_tensors(self) -> list[str]:
        return self.channels.unregistered_tensors

    def unpack(self, allocation: Allocation, tensors: Mapping[str, Tensor]) -> nn.Module:
        small = self.outline_network(allocation)
        small.load_state_dict(dict(tensors))
        return small

    def outline_network(self, allocation: Allocation) -> nn.Module:
        """A network with these widths. Its weights will be overwritten, so that no channel needs a score."""
        small = copy_network(self.network)
        alike = self.kept_channels(
            allocation, lambda group: removal_levels(torch.zeros(group.channels), group.partition)
        )
        self.channels.narrow_network(small, alike)
        return small

    def kept_channels(self, allocation: Allocation, order: Callable[[Group], Tensor]) -> dict[str, Tensor]:
        """Site -> the channels that stay, ascending, for every site that loses some; `order` gives removal levels."""
        staying = {}
        for level, group in zip(self.levels(allocation), self.channels.groups, strict=True):
            if level:
                staying[group.name] = (order(group) > int(level)).nonzero().flatten()
        return staying

    def removal_order(self) -> RemovalOrder:
        """The level of its site at which each channel is removed."""
        groups = self.channels.groups
        gone_at = {group.name: self.removal_levels(group) for group in groups}
        return RemovalOrder(self.network, groups, gone_at, self.channels.cost)

    @torch.no_grad()
    def removal_levels(self, group: Group) -> Tensor:
        """(channels,) the level of the group's site at which each channel is removed; scored once."""
        if group.name not in self._orders:
            self._orders[group.name] = removal_levels(self._criterion(self, group), group.partition)
        return self._orders[group.name]


Criterion = Callable[[FilterPruning, Group], Tensor]


def score_by_l1(pruning: FilterPruning, group: Group) -> Tensor:
    return filter_norms(pruning.network, group, 1)


def score_by_l2(pruning: FilterPruning, group: Group) -> Tensor:
    return filter_norms(pruning.network, group, 2)


def score_by_distance(pruning: FilterPruning, group: Group) -> Tensor:
    distances = ((slots, torch.cdist(filters, filters).sum(1)) for slots, filters in filters_of(pruning.network, group))
    return mean_per_channel(group, distances)


def score_by_bn_scale(pruning: FilterPruning, group: Group) -> Tensor:
    """|γ| of the group's batch norms; a group without any is ranked by the L1 norm of its filters."""
    scales = []
    for slots in group.slots:
        module = None if slots.dim is not None else pruning.network.get_submodule(slots.name)
        if isinstance(module, Norm) and module.affine:
            scales.append((slots, module.weight.detach().cpu().float().abs()))
    return mean_per_channel(group, scales) if scales else score_by_l1(pruning, group)


def _has_own_weight(module: nn.Module) -> bool:
    return isinstance(module, LAYERS) and "weight" in module._parameters


def _first_order_change(module: nn.Module) -> Tensor:
    """(n_filters,) |Σ w · ∂L/∂w| over each filter; 0 for a layer without gradient."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    products = torch.zeros_like(weight) if weight.grad is None else weight.detach() * weight.grad
    return by_filter(module, products).sum(1).abs().float().cpu()


def score_by_loss_change(pruning: FilterPruning, group: Group) -> Tensor:
    """First-order change of the calibration loss without filter n: the mean over batches of |Σ w · ∂L/∂w|.

    Products may cancel within a filter, never between batches. The paper squares the sum; this is its magnitude.
    """
    if not pruning._changes:
        raise ValueError("taylor scores need calibrate() before compress()")
    measured = [slots for slots, _ in filters_of(pruning.network, group) if slots.name in pruning._changes]
    if not measured:  # a bare weight alone makes the channels
        return score_by_l1(pruning, group)
    return mean_per_channel(group, ((slots, pruning._changes[slots.name]) for slots in measured))


def score_at_random(pruning: FilterPruning, group: Group) -> Tensor:
    seed = zlib.crc32(group.name.encode()) ^ int(pruning.options["seed"])
    return torch.rand(group.channels, generator=torch.Generator().manual_seed(seed))

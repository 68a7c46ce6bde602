"""The filters that produce a coupled group's channels, and their norms per channel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from methods.graph.channels import LAYERS, Group, Slots
from methods.graph.narrow import is_depthwise


def filters_of(network: nn.Module, group: Group) -> Iterator[tuple[Slots, Tensor]]:
    """The layers that produce a group's channels, with their filters as rows (n_filters, filter size), on the CPU."""
    for slots in group.slots:
        module = None if slots.dim is not None else network.get_submodule(slots.name)
        if slots.side == "out" and isinstance(module, LAYERS):
            yield slots, by_filter(module, module.weight.detach().cpu().float())


def by_filter(module: nn.Module, values: Tensor) -> Tensor:
    """A tensor of the weight's shape with a row per filter: (n_filters, filter size)."""
    outputs_second = getattr(module, "transposed", False) and not is_depthwise(module)
    return values.transpose(0, 1 if outputs_second else 0).flatten(1)


def mean_per_channel(group: Group, scored: Iterable[tuple[Slots, Tensor]]) -> Tensor:
    """(group.channels,) the mean of each channel's scores; scores come per channel of the module of their slots."""
    total, count = torch.zeros(group.channels), torch.zeros(group.channels)
    for slots, scores in scored:
        total.index_add_(0, slots.channel, scores[slots.index])
        count.index_add_(0, slots.channel, torch.ones(len(slots.index)))
    return total / count.clamp(min=1)


def filter_norms(network: nn.Module, group: Group, p: int) -> Tensor:
    """The Lp norm of each channel's filters, (group.channels,)."""
    return mean_per_channel(group, ((slots, filters.norm(p, dim=1)) for slots, filters in filters_of(network, group)))

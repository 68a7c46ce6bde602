"""The filters that produce a coupled group's channels, and their norms per channel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from methods.graph.channels import Group, Slots
from methods.graph.narrow import LAYERS, is_transposed_in_groups, layer_dims


def filters_of(network: nn.Module, group: Group) -> Iterator[tuple[Slots, Tensor]]:
    """The layers that produce a group's channels, with their filters as rows (n_filters, filter size), on the CPU.

    Where no layer does, bare weights do (`F.conv2d(x, self.kernel)`).
    """
    produced = [slots for slots in group.slots if slots.side == "out"]
    modules = [(slots, network.get_submodule(slots.name)) for slots in produced if slots.dim is None]
    layers = [(slots, module) for slots, module in modules if isinstance(module, LAYERS)]
    for slots, module in layers:
        yield slots, by_filter(module, module.weight.detach().cpu().float())
    if not layers:
        parameters = dict(network.named_parameters(remove_duplicate=False))
        for slots in produced:
            weight = parameters.get(slots.name)  # None for what goes along: norms, buffers, plain attributes
            if weight is not None and weight.squeeze().dim() > 1:  # not a scale or a bias
                yield slots, weight.detach().cpu().float().movedim(slots.dim or 0, 0).flatten(1)


def by_filter(module: nn.Module, values: Tensor) -> Tensor:
    """A tensor of the weight's shape with a row per filter: (n_filters, filter size)."""
    if is_transposed_in_groups(module):
        values = values.unflatten(0, (module.groups, -1)).transpose(1, 2).flatten(0, 1)
        return values.flatten(1)
    return values.movedim(layer_dims(module)[0], 0).flatten(1)


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

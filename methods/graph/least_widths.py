"""How few channels of each group a network still runs with.

Code may divide by a width (`dim // heads`), or pool over channels in windows: then one channel is too few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from methods.base import copy_network
from methods.graph.channels import Group, keep_channels
from methods.graph.flow.sizes import CallNumbers


def least_widths(network: nn.Module, example: Tensor, groups: Sequence[Group], numbers: CallNumbers) -> dict[str, int]:
    """Group -> the least number of its channels with which the network runs, all groups at once."""
    least = {group.name: group.classes for group in groups}
    while not _runs(network, example, groups, least, numbers):
        narrow = {group.name: least[group.name] for group in groups if least[group.name] < group.channels}
        if not narrow:
            return least
        alone = [name for name in narrow if not _runs(network, example, groups, {name: narrow[name]}, numbers)]
        full = {group.name: group.channels for group in groups}
        for name in alone or narrow:
            least[name] = min(2 * least[name], full[name])
    return least


@torch.no_grad()
def _runs(
    network: nn.Module, example: Tensor, groups: Sequence[Group], widths: Mapping[str, int], numbers: CallNumbers
) -> bool:
    narrowed = copy_network(network).eval()
    staying = {group.name: _first_channels(group, widths[group.name]) for group in groups if group.name in widths}
    try:
        keep_channels(narrowed, groups, staying)
        numbers.write_numbers(narrowed, staying)
        narrowed(example.to(next(network.parameters()).dtype))
    except Exception:  # whatever the user's code raises
        return False
    return True


def _first_channels(group: Group, width: int) -> Tensor:
    """The first channels of every class, ascending, `width` in all."""
    members = [torch.where(group.partition == c)[0][: width // group.classes] for c in range(group.classes)]
    return torch.cat(members).sort().values

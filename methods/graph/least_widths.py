"""How few channels of each group a network still runs with.

Code may divide by a width (`dim // heads`), or pool over channels in windows: then one channel is too few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from methods.base import copy_network
from methods.graph.channels import Group, keep_channels
from methods.graph.culprits import touches_module
from methods.graph.flow.sizes import CallNumbers
from models.execution.forward_hooks import module_path


def least_widths(network: nn.Module, example: Tensor, groups: Sequence[Group], numbers: CallNumbers) -> dict[str, int]:
    """Group -> the least number of its channels with which the network runs, all groups at once, to a factor of two."""
    least = {group.name: group.classes for group in groups}
    full = {group.name: group.channels for group in groups}

    def failing_module(widths: Mapping[str, int]) -> str | None:
        return _failing_module(network, example[:1], groups, widths, numbers)

    while (module := failing_module(least)) is not None:
        narrow = [group for group in groups if least[group.name] < group.channels]
        inside = [group.name for group in narrow if not module or touches_module(group, module)]
        # Widths meet in the module: it is those that help there if they are whole that are too small.
        helping = [name for name in inside if failing_module(least | {name: full[name]}) != module]
        wider = helping or inside or [group.name for group in narrow]
        if not wider:
            break
        least |= {name: min(2 * least[name], full[name]) for name in wider}
    return least


@torch.no_grad()
def _failing_module(
    network: nn.Module, image: Tensor, groups: Sequence[Group], widths: Mapping[str, int], numbers: CallNumbers
) -> str | None:
    """The module that raises in a network of these widths; None if it runs."""
    narrowed = copy_network(network).eval()
    staying = {group.name: first_channels(group, widths[group.name]) for group in groups}
    path: list[str] = []
    try:
        keep_channels(narrowed, groups, staying)
        image = image.to(next(network.parameters()).dtype)
        with module_path(narrowed, path):
            numbers.write_numbers(narrowed, staying, image)
            narrowed(image)
    except Exception:  # whatever the user's code raises
        return path[-1] if path else ""
    return None


def first_channels(group: Group, width: int) -> Tensor:
    """The first channels of every class, ascending, `width` in all."""
    members = [torch.where(group.partition == c)[0][: width // group.classes] for c in range(group.classes)]
    return torch.cat(members).sort().values

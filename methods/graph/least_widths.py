"""How few channels of each group a network still runs with, at the cost that is predicted.

Code may divide by a width (`dim // heads`), or pool over channels in windows: then one channel is too few. Where it
would sum over a single channel, `einsum` multiplies element by element, which is no product any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from methods.graph.channels import Group, keep_channels
from methods.graph.culprits import PATIENCE, touches_module
from methods.graph.flow.find import TracedGroups
from methods.graph.trace import drop_caches, fitting_inputs, trace_layers
from methods.graph.width_cost import WidthCost
from models.execution.forward_hooks import module_path
from models.execution.module_copies import copy_on_write


def least_widths(network: nn.Module, example: Tensor, groups: Sequence[Group], traced: TracedGroups) -> dict[str, int]:
    """Group -> the least number of its channels, all groups at once, to a factor of two.

    A group that would keep all of them is looked at more closely.
    """
    end = time.monotonic() + PATIENCE
    least = {group.name: group.classes for group in groups}
    full = {group.name: group.channels for group in groups}

    def failing_module(widths: Mapping[str, int]) -> str | None:
        return _failing_module(network, example[:1], groups, widths, traced)

    while (module := failing_module(least)) is not None:
        narrow = [group for group in groups if least[group.name] < group.channels]
        inside = [group.name for group in narrow if not module or touches_module(group, module)]
        # Widths meet in the module: it is those that help there if they are whole that are too small.
        helping = [
            name for name in inside if time.monotonic() < end and failing_module(least | {name: full[name]}) != module
        ]
        wider = helping or inside or [group.name for group in narrow]
        if not wider:
            return least
        least |= {name: min(2 * least[name], full[name]) for name in wider}
    for group in groups:
        if least[group.name] == group.classes or time.monotonic() > end:
            continue

        def runs(width: int, name: str = group.name) -> bool:
            return failing_module(least | {name: width}) is None

        if runs(group.classes):  # it was raised beside those that are at fault
            least[group.name] = group.classes
        elif least[group.name] == full[group.name]:
            least[group.name] = _halve_interval(group, runs, end)
    while wider := [name for name in _miscounted_groups(network, example[:1], groups, least, traced)
                    if least[name] < full[name]]:  # fmt: skip
        least |= {name: min(2 * least[name], full[name]) for name in wider}
    return least


def _halve_interval(group: Group, runs: Callable[[int], bool], end: float) -> int:
    """The least width of a group between its half, which does not run, and the whole."""
    failing, running = group.channels // 2 // group.classes, group.channels // group.classes
    while running - failing > 1 and time.monotonic() < end:
        middle = (failing + running) // 2
        if runs(middle * group.classes):
            running = middle
        else:
            failing = middle
    return running * group.classes


@torch.no_grad()
def _failing_module(
    network: nn.Module, image: Tensor, groups: Sequence[Group], widths: Mapping[str, int], traced: TracedGroups
) -> str | None:
    """The module that raises in a network of these widths; None if it runs."""
    path: list[str] = []
    try:
        _run_narrowed(network, image, groups, widths, traced, path)
    except Exception:  # whatever the user's code raises
        return path[-1] if path else ""
    return None


def _run_narrowed(
    network: nn.Module,
    image: Tensor,
    groups: Sequence[Group],
    widths: Mapping[str, int],
    traced: TracedGroups,
    path: list[str],
) -> nn.Module:
    """A network of these widths that has run once; after an error, `path` ends with the module that raised."""
    narrowed = copy_on_write(network).eval()
    staying = {group.name: first_channels(group, widths[group.name]) for group in groups}
    keep_channels(narrowed, groups, staying)
    drop_caches(narrowed)
    image = fitting_inputs(network, image)
    with module_path(narrowed, path):
        traced.numbers.write_numbers(narrowed, staying, image)
        narrowed(image)
    return narrowed


@torch.no_grad()
def _miscounted_groups(
    network: nn.Module, image: Tensor, groups: Sequence[Group], widths: Mapping[str, int], traced: TracedGroups
) -> set[str]:
    """The groups in whose layers a network of these widths multiplies more or less often than predicted."""
    cost = WidthCost(network, groups, [[group.channels] for group in groups], traced.products)
    predicted = cost.layer_flops(np.array([[widths[group.name] for group in groups]], dtype=np.float64))
    uses = trace_layers(_run_narrowed(network, image, groups, widths, traced, []), image)
    flops = {name: use.flops for name, use in uses.items()}
    wrong = {name for name, (count,) in predicted.items() if round(count) != flops.get(name, 0)}
    # Sums over too few channels are at fault, if there are any.
    products = [product for product in traced.products if product.layer in wrong]
    summed = {group for product in products for group in product.groups(summed=True)}
    written = {group for product in products for group in product.groups(summed=False)}
    return (summed & widths.keys()) or (written & widths.keys())


def first_channels(group: Group, width: int) -> Tensor:
    """The first channels of every class, ascending, `width` in all."""
    members = [torch.where(group.partition == c)[0][: width // group.classes] for c in range(group.classes)]
    return torch.cat(members).sort().values

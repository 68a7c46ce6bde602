"""How few channels of each group a network still runs with, at the cost that is predicted.

Code may divide by a width (`dim // heads`), or pool over channels in windows: then one channel is too few. Where it
would sum over a single channel, `einsum` multiplies element by element, which is no product any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from methods.graph.call_limit import with_limited_calls
from methods.graph.channels import Group
from methods.graph.comparison import TriedRemoval
from methods.graph.culprits import PATIENCE, Fault, give_up_groups, touches_module
from methods.graph.flow.find import TracedGroups
from methods.graph.steady_choices import SteadyChoices
from methods.graph.trace import applied_flops, fitting_inputs, quiet_errors, trace_layers
from methods.graph.trial import DRAWS, try_removal
from methods.graph.visibility import in_double_precision, with_visible_factors
from methods.graph.width_cost import WidthCost
from models.execution.forward_hooks import module_path
from models.execution.inputs import Inputs

LEAST_DRAW = DRAWS  # after those of the trial, which alone look at other images
UNSETTLED = f"how few of its channels are right could not be settled in {PATIENCE:.0f} s"


@quiet_errors()
def least_widths(
    network: nn.Module,
    example: Inputs,
    groups: Sequence[Group],
    traced: TracedGroups,
    images: Inputs | None = None,
) -> tuple[dict[str, int], dict[str, str]]:
    """Group -> the least number of its channels, all groups at once, to a factor of two.

    Networks of these widths run, do what masked ones do, and cost what is predicted. Groups of which no fewer channels
    than all are right get a reason instead.

    Args:
        images: on which narrowed networks are run and compared (`trial_images.py`); costs are those of the example.
    """
    images = images or example
    end = time.monotonic() + PATIENCE
    network = with_limited_calls(network, example)
    least = _running_widths(network, images, groups, traced, end)
    reasons = _widen_wrong(network, images, groups, traced, least, end)
    reasons |= _widen_miscounted(network, example, groups, traced, least, end)
    return {name: width for name, width in least.items() if name not in reasons}, reasons


def _running_widths(
    network: nn.Module, example: Inputs, groups: Sequence[Group], traced: TracedGroups, end: float
) -> dict[str, int]:
    """The least widths with which the network runs; a group that would keep all channels is looked at more closely."""
    least = {group.name: group.classes for group in groups}
    full = {group.name: group.channels for group in groups}

    def failing_module(widths: Mapping[str, int]) -> str | None:
        return _failing_module(network, example.first(), groups, widths, traced)

    while (module := failing_module(least)) is not None:
        narrow = [group for group in groups if least[group.name] < group.channels]
        in_time = time.monotonic() < end
        inside = [group.name for group in narrow if in_time and (not module or touches_module(group, module))]
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
    return least


def _widen_wrong(
    network: nn.Module,
    example: Inputs,
    groups: Sequence[Group],
    traced: TracedGroups,
    least: dict[str, int],
    end: float,
) -> dict[str, str]:
    """Raise the least widths with which a narrowed network does other than a masked one; reasons where none is right.

    Code may take another way below some width (`if channels < 8`), or divide by a deviation that one channel has not.
    """
    visible = in_double_precision(with_visible_factors(network), example)

    def try_widths(candidates: Sequence[Group], widths: Mapping[str, int]) -> Fault | None:
        staying = {group.name: first_channels(group, widths[group.name]) for group in candidates}
        return try_removal(TriedRemoval(visible, candidates, staying, traced), example, LEAST_DRAW, [])

    reasons: dict[str, str] = {}
    halved: set[str] = set()
    narrow = [group for group in groups if least[group.name] < group.channels]
    while narrow:
        _, faults = give_up_groups(narrow, partial(try_widths, widths=least), max(end - time.monotonic(), 0))
        if not faults:
            break
        for group in (group for group in narrow if group.name in faults):

            def is_right(width: int, group: Group = group) -> bool:
                return try_widths([group], {group.name: width}) is None

            width = 2 * least[group.name]
            if width >= group.channels and group.name not in halved:
                halved.add(group.name)
                width = _halve_interval(group, is_right, end)
            least[group.name] = min(width, group.channels)
            if time.monotonic() > end:
                reasons[group.name] = UNSETTLED
            elif least[group.name] == group.channels:
                reasons[group.name] = faults[group.name]
        narrow = [group for group in narrow if group.name not in reasons]
    return reasons


def _widen_miscounted(
    network: nn.Module,
    example: Inputs,
    groups: Sequence[Group],
    traced: TracedGroups,
    least: dict[str, int],
    end: float,
) -> dict[str, str]:
    """Raise the least widths of groups whose products are not counted as predicted; reasons if time is over."""
    full = {group.name: group.channels for group in groups}
    choices = SteadyChoices()
    applied_flops(network, example, choices)
    while True:
        try:
            miscounted = _miscounted_groups(network, example.first(), groups, least, traced, choices)
        except Exception:  # wider groups may not fit beside narrow ones
            miscounted = set(least)
        wider = {name for name in miscounted if least[name] < full[name]}
        if not wider:
            return {}
        if time.monotonic() > end:
            return dict.fromkeys(sorted(wider), UNSETTLED)
        least |= {name: min(2 * least[name], full[name]) for name in wider}


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
    network: nn.Module, image: Inputs, groups: Sequence[Group], widths: Mapping[str, int], traced: TracedGroups
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
    image: Inputs,
    groups: Sequence[Group],
    widths: Mapping[str, int],
    traced: TracedGroups,
    path: list[str],
) -> nn.Module:
    """A network of these widths that has run once; after an error, `path` ends with the module that raised."""
    staying = {group.name: first_channels(group, widths[group.name]) for group in groups}
    narrowed = TriedRemoval(network, groups, staying, traced).narrow_copy()
    image = fitting_inputs(network, image)
    with module_path(narrowed, path):
        traced.numbers.write_numbers(narrowed, staying, image)
        image(narrowed)
    return narrowed


@torch.no_grad()
def _miscounted_groups(
    network: nn.Module,
    image: Inputs,
    groups: Sequence[Group],
    widths: Mapping[str, int],
    traced: TracedGroups,
    choices: SteadyChoices,
) -> set[str]:
    """The groups in whose layers a network of these widths multiplies more or less often than predicted."""
    cost = WidthCost(network, groups, [[group.channels] for group in groups], traced.products)
    predicted = cost.layer_flops(np.array([[widths[group.name] for group in groups]], dtype=np.float64))
    narrowed = _run_narrowed(network, image, groups, widths, traced, [])
    uses = trace_layers(narrowed, image, choices.repeat_regions())
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

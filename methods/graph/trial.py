"""One trial of coupled groups: a copy of the network is narrowed, another one masked; both must give the same outputs.

Which channels go is drawn at random, and drawn anew for each of `DRAWS` trials.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor, nn

from methods.graph.channels import Group
from methods.graph.comparison import (
    MORE_THAN_CHANNELS,
    OTHER_SHAPES,
    TriedRemoval,
    are_close,
    have_same_shapes,
    why_different,
)
from methods.graph.culprits import Fault
from methods.graph.flow.find import TracedGroups
from methods.graph.other_inputs import BRIGHTNESS, FULL_SIZE, OtherInputs
from methods.graph.replaced_numbers import ReplacedNumbers
from methods.graph.steady_choices import SteadyChoices, agree_with_choices
from methods.graph.trace import applied_flops, count_params, fitting_inputs
from methods.graph.training_pass import fault_in_training
from methods.graph.width_cost import WidthCost
from models.execution.forward_hooks import module_path
from models.execution.inputs import Inputs
from models.execution.module_copies import copy_on_write
from models.execution.random_state import random_state
from models.execution.tensor_leaves import output_leaves
from models.execution.user_line import EndlessPassError, describe_failure

DRAWS = 3
NOT_MASKED = "the network does not run with its channels masked, so that no trial can tell what it should return"


def trial_channels(group: Group, number: int, draw: int, *, wide: bool = False) -> Tensor:
    """Channels to keep in a trial, ascending; a third of every class or somewhat more goes, at random.

    Each channel goes in one of the draws at least: one that plays a part of its own is not missed. Groups lose
    different channels, so that two groups whose coupling was missed fail when both are narrowed. Over the
    draws they lose different numbers of them, so that one's width is not taken for the other's. Classes lose different
    positions, as they will under scores, so that classes that must lose the same ones (a half that gates the other)
    fail.

    Args:
        number: of the group, among those that are tried.
        wide: one channel of every class goes, for code that does not run below some width.
    """
    staying = []
    for c in range(group.classes):
        members = torch.where(group.partition == c)[0]
        fewest = 1 if wide else -(-len(members) // DRAWS)
        choices = 1 if wide else min(len(members) // 4, len(members) - 1 - fewest) + 1
        # The digits of the group's number: two groups of as many channels differ in one of the draws.
        gone = fewest + (number // choices**draw + draw) % choices
        order = torch.randperm(len(members), generator=torch.Generator().manual_seed(number))
        shift = c * max(len(members) // group.classes, 1) - draw * fewest
        staying.append(members[order.roll(shift)[gone:]])
    return torch.cat(staying).sort().values


@torch.no_grad()
def try_draw(
    network: nn.Module,
    example: Inputs,
    groups: Sequence[Group],
    draw: int,
    traced: TracedGroups,
    runs: list[dict[str, ReplacedNumbers]],
    tolerance: float | None = None,
    wide: Collection[str] = (),
    other_inputs: Sequence[OtherInputs] = (),
) -> Fault | None:
    """Why a draw fails, if it does.

    Args:
        runs: gets the numbers in the code of the narrowed copy.
        wide: groups that are tried with one channel less.
        other_inputs: compared too, in the first draw.
    """
    staying = {
        group.name: trial_channels(group, number, draw, wide=group.name in wide) for number, group in enumerate(groups)
    }
    removal = TriedRemoval(network, groups, staying, traced)
    return try_removal(removal, example, draw, runs, tolerance, other_inputs)


@torch.no_grad()
def try_removal(
    removal: TriedRemoval,
    example: Inputs,
    draw: int,
    runs: list[dict[str, ReplacedNumbers]],
    tolerance: float | None = None,
    other_inputs: Sequence[OtherInputs] = (),
) -> Fault | None:
    """Why a narrowed copy fails, or does other than the masked network, if so; arguments as of `try_draw`."""
    inputs = fitting_inputs(removal.network, example)
    path: list[str] = []
    try:
        narrowed = removal.narrow_copy()
        with module_path(narrowed, path):
            runs.append(removal.traced.numbers.write_numbers(narrowed, removal.staying, inputs))
        fresh = copy_on_write(narrowed)  # code may keep state
        with module_path(narrowed, path), random_state(inputs.device, draw):
            outputs = output_leaves(inputs.clone()(narrowed))
    except Exception as error:  # whatever the user's forward pass raises, the group must stay dense
        reason = f"without its channels, {describe_failure(error, path)}"
        return Fault(reason, path[-1] if path else None)
    for written in runs[-1].values():
        if code := written.find_ambiguous_code():
            return Fault(f"calls in {code} cannot be told apart in another order, and need different numbers")
    try:
        wanted = removal.run_masked(inputs, draw)
    except Exception:  # an operator that takes zeros or a part of the channels amiss: nothing to compare with
        return Fault(NOT_MASKED)
    same_shapes = have_same_shapes(outputs, wanted)
    if not (same_shapes and are_close(outputs, wanted, tolerance)) and not _differ_by_choices(
        removal, fresh, inputs, draw, tolerance
    ):
        return Fault(why_different(removal.network, inputs) if same_shapes else OTHER_SHAPES)
    if tolerance is not None:  # a closer look at what has passed
        return None
    fault = fault_in_training(removal, fresh, inputs)
    if draw == 0 and fault is None:
        fault = _fault_on_others(removal, fresh, other_inputs)
    return Fault(fault) if fault else None


def _differ_by_choices(
    removal: TriedRemoval, narrowed: nn.Module, inputs: Inputs, seed: int, tolerance: float | None = None
) -> bool:
    """Whether rounding alone makes the outputs differ: which of equal scores comes first."""

    def run_narrowed() -> list[Tensor]:
        with random_state(inputs.device, seed):
            return output_leaves(inputs.clone()(copy_on_write(narrowed)))

    return agree_with_choices(run_narrowed, lambda: removal.run_masked(inputs, seed), tolerance)


def _fault_on_others(removal: TriedRemoval, narrowed: nn.Module, other_inputs: Sequence[OtherInputs]) -> str | None:
    """Code that other inputs run must not be wrong unnoticed.

    An error is noticed, and another size may ask for it; images of the example's size, or that merely look different,
    must not end in one, and no images in code that goes on for ever.
    """
    for other in other_inputs:
        path: list[str] = []
        try:
            twin = copy_on_write(narrowed)
            with module_path(twin, path), random_state(other.images.device, 0):
                outputs = output_leaves(other.images.clone()(twin))
        except Exception as error:
            if other.kind in (BRIGHTNESS, FULL_SIZE) or isinstance(error, EndlessPassError):
                return f"without its channels, {describe_failure(error, path)} in {other.kind}"
            continue
        with suppress(Exception):
            wanted = removal.run_masked(other.images, 0)
            if have_same_shapes(outputs, wanted) and are_close(outputs, wanted):
                continue
            # Random outputs, or none that are finite, are no evidence here: the example has passed.
            if why_different(removal.network, other.images) == MORE_THAN_CHANNELS and not _differ_by_choices(
                removal, narrowed, other.images, 0
            ):
                return f"{MORE_THAN_CHANNELS} in {other.kind}"
    return None


def try_cost(
    network: nn.Module,
    example: Inputs,
    groups: Sequence[Group],
    traced: TracedGroups,
    dense_flops: int,
    choices: SteadyChoices,
    wide: Collection[str] = (),
) -> Fault | None:
    """What the cost model says of a narrowed network must be what is counted there, looking at as many regions.

    A product over a single channel may be no product any more (einsum): `least_widths` keeps more there.

    Args:
        choices: noted while the dense network's `dense_flops` were counted.
    """
    staying = {
        group.name: trial_channels(group, number, 0, wide=group.name in wide) for number, group in enumerate(groups)
    }
    cost = WidthCost(network, groups, [[group.channels] for group in groups], traced.products)
    narrowed = TriedRemoval(network, groups, staying, traced).narrow_copy()
    traced.numbers.write_numbers(narrowed, staying, example)
    predicted = cost.of_widths(np.array([[len(staying[group.name]) for group in groups]], dtype=np.float64))
    if int(predicted.params[0]) != count_params(narrowed):
        return Fault("the parameters that go with its channels cannot be told from the widths of its layers")
    # Differences: what the dense network has in no layer's positions is not the groups' doing.
    if cost.dense.flops - int(predicted.flops[0]) != dense_flops - applied_flops(
        narrowed, example, choices.repeat_regions()
    ):
        return Fault("the FLOPs that go with its channels cannot be told from the widths of its layers")
    return None

"""Which coupled groups pass their trials together, and which of them a trial can see."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import nn

from methods.graph.call_limit import with_limited_calls
from methods.graph.changed_inputs import SCALES
from methods.graph.channels import Group
from methods.graph.comparison import MORE_THAN_CHANNELS, TOLERANCES, TriedRemoval
from methods.graph.culprits import PATIENCE, Fault, give_up_groups, touches_module
from methods.graph.flow.find import TracedGroups
from methods.graph.other_inputs import FULL_SIZE, OtherInputs, find_other_inputs
from methods.graph.replaced_numbers import ReplacedNumbers
from methods.graph.steady_choices import SteadyChoices
from methods.graph.trace import applied_flops, fitting_inputs, number_type, quiet_errors
from methods.graph.trial import DRAWS, trial_channels, try_cost, try_draw
from methods.graph.visibility import (
    UNSEEN,
    WHOLE_NUMBERS,
    in_double_precision,
    relative_effect,
    unseen_groups,
    with_visible_factors,
)
from models.execution.inputs import Inputs
from models.execution.module_copies import copy_on_write
from models.execution.random_state import random_state
from models.execution.tensor_leaves import output_leaves

ROUNDING = 1e-14  # of doubles, relative to the largest output


@quiet_errors()
def sound_groups(
    network: nn.Module,
    example: Inputs,
    groups: list[Group],
    traced: TracedGroups,
    images: Inputs | None = None,
) -> tuple[list[Group], dict[str, str]]:
    """The groups that pass the trial together, and a reason for each that was given up.

    Args:
        groups: some of those in `traced`, whose numbers of the code that it gets right by itself are dropped.
        images: on which narrowed networks are compared with masked ones (`trial_images.py`); the example's are looked
            at once, and for the cost.
    """
    choices = SteadyChoices()
    dense_flops = applied_flops(network, example, choices)
    network = with_limited_calls(network, example)
    images = images or example
    visible = in_double_precision(with_visible_factors(network), images)
    waiting = any(not use.calls for use in traced.uses.values())
    others = find_other_inputs(visible, images, has_waiting_layers=waiting)
    if images is not example:
        others.append(OtherInputs(fitting_inputs(visible, example.first()), FULL_SIZE))
    runs: list[dict[str, ReplacedNumbers]] = []
    wide: set[str] = set()  # groups that are tried with one channel less

    def try_groups(candidates: Sequence[Group]) -> Fault | None:
        """Code that does not run below some width may run above it: `least_widths` finds where."""
        fault = try_numbers(candidates)
        if fault is None or not fault.module:
            return fault
        inside = {group.name for group in candidates if touches_module(group, fault.module)} - wide
        if not inside:
            return fault
        wide.update(inside)
        if (other_fault := try_numbers(candidates)) is None or other_fault.module != fault.module:
            return other_fault
        wide.difference_update(inside)
        return fault

    def try_numbers(candidates: Sequence[Group]) -> Fault | None:
        """A module that raises may compare what it gets with a width of its own: such attributes are written anew."""
        fault = try_draws(candidates)
        while fault is not None and fault.module and traced.numbers.rewrite_attributes(fault.module):
            module, fault = fault.module, try_draws(candidates)
            if fault is not None and fault.module == module:
                traced.numbers.leave_attributes(module)
        return fault

    def try_draws(candidates: Sequence[Group]) -> Fault | None:
        """Three draws of removed channels: with one, couplings that were missed slip through."""
        runs.clear()
        faults = (
            try_draw(visible, images, candidates, draw, traced, runs, wide=wide, other_inputs=others)
            for draw in range(DRAWS)
        )
        fault = next((fault for fault in faults if fault is not None), None)
        return fault or try_cost(network, example, candidates, traced, dense_flops, choices, wide)

    passed, reasons = give_up_groups(groups, try_groups)
    traced.numbers.keep_needed(runs)
    unseen = _faults_of_unseen(visible, images, passed, traced, wide)
    passed = [group for group in passed if group.name not in unseen]
    reasons |= unseen
    for name, reason in reasons.items():
        if reason == MORE_THAN_CHANNELS and name in traced.measures:
            reasons[name] = f"{reason}, which {traced.measures[name]} takes together"
    return passed, reasons


@torch.no_grad()
def _faults_of_unseen(
    network: nn.Module, example: Inputs, groups: Sequence[Group], traced: TracedGroups, wide: Collection[str]
) -> dict[str, str]:
    """The groups that the trial cannot see, and those that turn out unsound in a closer look."""
    inputs = fitting_inputs(network, example)
    tolerance = TOLERANCES[number_type(network)]

    def find_fault(candidates: Sequence[Group], scale: float, closeness: float) -> Fault | None:
        images = example.scale(scale)
        trials = (try_draw(network, images, candidates, draw, traced, [], closeness, wide) for draw in range(DRAWS))
        return next((fault for fault in trials if fault is not None), None)

    faults: dict[str, str] = {}
    faint: dict[float, list[tuple[Group, float]]] = {}  # scale of the images -> groups, and what a trial may tolerate
    # What only training calls has its trial there.
    called = [group for group in groups if any(traced.uses[name].calls for name in traced.uses if name in group.layers)]
    estimates = unseen_groups(network, inputs, called, tolerance)
    doubtful = [group for group in called if group.name in estimates]
    outputs = output_leaves(inputs.clone()(copy_on_write(network))) if doubtful else []
    unseen_reason = WHOLE_NUMBERS if outputs and not any(map(torch.is_floating_point, outputs)) else UNSEEN
    effects = _find_effects(network, inputs, doubtful, estimates, traced)
    for group in doubtful:
        scale, effect = effects.get(group.name, (1.0, 0.0))
        if not effect:
            faults[group.name] = unseen_reason
        elif (scale != 1 or effect < tolerance) and effect / 100 > 10 * ROUNDING:
            # A fresh network may let little through (squeeze and excitation). What is fainter is believed untried.
            faint.setdefault(scale, []).append((group, min(tolerance, effect / 100)))
    for scale, pairs in faint.items():
        if find_fault([group for group, _ in pairs], scale, min(closeness for _, closeness in pairs)) is not None:
            faults_alone = ((group, find_fault([group], scale, closeness)) for group, closeness in pairs)
            faults.update({group.name: fault.reason for group, fault in faults_alone if fault is not None})
    return faults


def _find_effects(
    network: nn.Module,
    inputs: Inputs,
    groups: Sequence[Group],
    estimates: Mapping[str, float],
    traced: TracedGroups,
) -> dict[str, tuple[float, float]]:
    """Group -> a factor on the images with which its channels have an effect, and how large that is, if any has.

    Args:
        estimates: of the effects, by gradients; believed where `PATIENCE` seconds did not suffice to measure them.
    """
    end = time.monotonic() + PATIENCE
    effects: dict[str, tuple[float, float]] = {}
    for scale in (1.0, *SCALES):
        images, pending = inputs.scale(scale), [group for group in groups if group.name not in effects]
        if not pending:
            break
        try:
            with random_state(images.device, 0):
                dense = output_leaves(images.clone()(copy_on_write(network)))
        except Exception:  # the user's code may refuse images of another scale
            continue
        # Whole heads may have no effect on the outputs: one pass tells of all their groups, halving of the others.
        hidden = [group for group in pending if not estimates[group.name]]
        sets = [[group] for group in pending if estimates[group.name]] + ([hidden] if hidden else [])
        while sets:
            candidates = sets.pop()
            if time.monotonic() > end:
                believed = {group.name: (1.0, estimates[group.name]) for group in candidates}
                effects |= {name: effect for name, effect in believed.items() if effect[1]}
                continue
            staying = {group.name: trial_channels(group, 0, 0) for group in candidates}
            try:
                removal = TriedRemoval(network, candidates, staying, traced)
                effect = relative_effect(dense, removal.run_masked(images, 0))
            except Exception:  # of images of another scale; the trial has masked the same channels before
                effect = 0.0
            if effect > ROUNDING and len(candidates) == 1:
                effects[candidates[0].name] = scale, effect
            elif effect > ROUNDING:
                middle = len(candidates) // 2
                sets += [candidates[middle:], candidates[:middle]]
    return effects

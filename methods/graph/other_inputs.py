"""Inputs for which a network runs other code than for the example: of another size, batch or brightness.

Code that the trace has not seen may mix channels that it takes to be apart, without an error.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from methods.graph.changed_inputs import change_brightness, resize_images, stretch_images
from methods.graph.operator_recorder import DATA_READERS, OperatorRecorder, Step, record_operators
from methods.graph.trace import fitting_inputs
from models.execution.inputs import Inputs

BRIGHTNESS = "images of another brightness"
OTHER_SIZE = "images of another size"
FULL_SIZE = "images of the example's size"
_BATCH = 8


@dataclass(frozen=True)
class OtherInputs:
    """A batch of inputs, and what sets them apart from the example, for the user."""

    images: Inputs
    kind: str


def find_other_inputs(network: nn.Module, example: Inputs, *, has_waiting_layers: bool = False) -> list[OtherInputs]:
    """The batches on which a trial has to compare too: smaller images, and all for which the network runs other code.

    One forward pass each tells; most networks need no further one.

    Args:
        has_waiting_layers: some layers are not called for the example, and may be for images of another brightness.
    """
    images = fitting_inputs(network, example.first())
    steps = _list_steps(network, images)
    if steps is None:
        return []
    smaller = resize_images(images, 0.5)
    small_steps = _list_steps(network, smaller)
    others = [] if small_steps is None else [OtherInputs(smaller, OTHER_SIZE)]
    others += [
        OtherInputs(resized, OTHER_SIZE)
        for resized in (resize_images(images, 1.5), *stretch_images(images))
        if _differ(_list_steps(network, resized), steps)
    ]
    # A batch of small images takes less time, where the network runs on them.
    single, reference = (images, steps) if small_steps is None else (smaller, small_steps)
    batch = single.repeat(_BATCH)
    if _differ(_list_steps(network, batch), reference):
        others.append(OtherInputs(batch, "a batch of another size"))
    if has_waiting_layers or any(step.operator in DATA_READERS for step in steps):
        brighter, *variants = change_brightness(images)
        # Tensors may change places (`torch.cat([b, a])`) without another operator: one batch is always compared.
        others += [OtherInputs(brighter, BRIGHTNESS)] if _list_steps(network, brighter) is not None else []
        others += [
            OtherInputs(variant, BRIGHTNESS)
            for variant in variants
            if _differ(_list_steps(network, variant), steps, with_numbers=True)
        ]
    return others


def _differ(steps: list[Step] | None, reference: list[Step], *, with_numbers: bool = False) -> bool:
    """Whether a pass ran other operators; numbers differ by right where sizes do."""
    if steps is None:  # the network does not run so
        return False
    return steps != reference if with_numbers else [step[:2] for step in steps] != [step[:2] for step in reference]


def _list_steps(network: nn.Module, images: Inputs) -> list[Step] | None:
    """The operators of a pass in their order; None if the network does not run on such images."""
    recorded = record_operators(network, images, OperatorRecorder())
    return None if recorded is None else recorded.steps

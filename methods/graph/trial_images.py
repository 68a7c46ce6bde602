"""Images on which narrowed networks are tried: smaller ones where the network runs the same code on them.

A trial runs a network some forty times, forward and backward, in double precision. What it compares are channels: for a
convolutional network, 64 × 64 pixels tell as much of them as 224 × 224, in a tenth of the time. That nothing is wrong
is believed of them, together with one look at the example; whatever they find wrong is tried anew on the example.
"""

from __future__ import annotations

from torch import nn

from methods.graph.changed_inputs import resize_images
from methods.graph.flow.find import TracedGroups
from methods.graph.operator_recorder import DATA_READERS, OperatorRecorder, Step, record_operators
from methods.graph.trace import fitting_inputs
from models.execution.inputs import Inputs
from models.execution.module_copies import copy_on_write

SIDE = 64  # pixels: 2 × 2 positions are left behind the usual five strides
LEAST_SIDE = 2 * SIDE  # of images that are worth it


def trial_images(network: nn.Module, example: Inputs, traced: TracedGroups) -> Inputs:
    """The example with fewer pixels; as it is if it has few, or where the network's code would do anything else.

    The code must run the same operators in the same modules, decide nothing by the data, and hold no widths of its own.
    """
    sizes = [tensor.shape[dim] for tensor in example.tensors for dim in example.spatial_dims(tensor)]
    if not sizes or min(sizes) < LEAST_SIDE or example.training is not None or not traced.numbers.are_none:
        return example
    smaller = resize_images(example, SIDE / min(sizes))
    steps, small_steps = (_list_steps(network, images) for images in (example, smaller))
    same = steps is not None and small_steps is not None and steps == small_steps
    return smaller if same and not any(operator in DATA_READERS for _, operator in steps or ()) else example


def _list_steps(network: nn.Module, example: Inputs) -> list[tuple[str, str]] | None:
    """The modules and operators of a pass in their order; None if the network does not run on such images."""
    twin = copy_on_write(network)  # code may keep state
    recorded = record_operators(twin, fitting_inputs(twin, example.first()), OperatorRecorder())
    return None if recorded is None else [_place_of(step) for step in recorded.steps]


def _place_of(step: Step) -> tuple[str, str]:
    return step.module, step.operator

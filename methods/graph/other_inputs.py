"""Images for which a network runs other code than for the example: of another size, batch or brightness.

Code that the trace has not seen may mix channels that it takes to be apart, without an error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.graph.flow.passes import SCALES
from methods.graph.operator_recorder import READS_DATA, OperatorRecorder, Step, record_operators
from methods.graph.trace import fitting_inputs

BRIGHTNESS = "images of another brightness"


@dataclass(frozen=True)
class OtherInputs:
    """A batch of images, and what sets them apart from the example, for the user."""

    images: Tensor
    kind: str


def find_other_inputs(network: nn.Module, example: Tensor) -> list[OtherInputs]:
    """The batches on which a trial has to compare too: smaller images, and all for which the network runs other code.

    One forward pass each tells; most networks need no further one.
    """
    images = fitting_inputs(network, example[:1])
    steps = _list_steps(network, images)
    if steps is None:
        return []
    others = []
    smaller, larger = _resize_images(images, 0.5), _resize_images(images, 1.5)
    if (small_steps := _list_steps(network, smaller)) is not None:
        others.append(OtherInputs(smaller, "images of another size"))
    if _differ(_list_steps(network, larger), steps):
        others.append(OtherInputs(larger, "images of another size"))
    # A batch of small images takes less time, where the network runs on them.
    single, reference = (images, steps) if small_steps is None else (smaller, small_steps)
    batch = single.repeat(3, *[1] * (single.dim() - 1))
    if _differ(_list_steps(network, batch), reference):
        others.append(OtherInputs(batch, "a batch of another size"))
    if any(operator == READS_DATA for _, operator, _ in steps):
        scaled = [images * scale for scale in SCALES]
        others += [
            OtherInputs(batch, BRIGHTNESS)
            for batch in scaled
            if _differ(_list_steps(network, batch), steps, with_numbers=True)
        ]
    return others


def _resize_images(images: Tensor, scale: float) -> Tensor:
    """As bright as before: pixels are left out or repeated, whatever their type and the number of dimensions."""
    for dim, size in enumerate(images.shape[2:], 2):
        pixels = torch.linspace(0, size - 1, max(1, round(size * scale)), device=images.device).round().long()
        images = images.index_select(dim, pixels)
    return images


def _differ(steps: list[Step] | None, reference: list[Step], *, with_numbers: bool = False) -> bool:
    """Whether a pass ran other operators; numbers differ by right where sizes do."""
    if steps is None:  # the network does not run so
        return False
    return steps != reference if with_numbers else [step[:2] for step in steps] != [step[:2] for step in reference]


def _list_steps(network: nn.Module, images: Tensor) -> list[Step] | None:
    """The operators of a pass in their order; None if the network does not run on such images."""
    recorded = record_operators(network, images, OperatorRecorder())
    return None if recorded is None else recorded.steps

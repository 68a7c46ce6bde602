"""Images for which a network runs other code than for the example: of another size, batch or brightness.

Code that the trace has not seen may mix channels that it takes to be apart, without an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.graph.flow.passes import SCALES
from methods.graph.operator_recorder import DATA_READERS, OperatorRecorder, Step, record_operators
from methods.graph.trace import fitting_inputs

BRIGHTNESS = "images of another brightness"
OTHER_SIZE = "images of another size"
_BATCH = 8


@dataclass(frozen=True)
class OtherInputs:
    """A batch of images, and what sets them apart from the example, for the user."""

    images: Tensor
    kind: str


def find_other_inputs(network: nn.Module, example: Tensor, *, has_waiting_layers: bool = False) -> list[OtherInputs]:
    """The batches on which a trial has to compare too: smaller images, and all for which the network runs other code.

    One forward pass each tells; most networks need no further one.

    Args:
        has_waiting_layers: some layers are not called for the example, and may be for images of another brightness.
    """
    images = fitting_inputs(network, example[:1])
    steps = _list_steps(network, images)
    if steps is None:
        return []
    smaller = _resize_images(images, 0.5)
    small_steps = _list_steps(network, smaller)
    others = [] if small_steps is None else [OtherInputs(smaller, OTHER_SIZE)]
    others += [
        OtherInputs(resized, OTHER_SIZE)
        for resized in (_resize_images(images, 1.5), *_stretch_images(images))
        if _differ(_list_steps(network, resized), steps)
    ]
    # A batch of small images takes less time, where the network runs on them.
    single, reference = (images, steps) if small_steps is None else (smaller, small_steps)
    batch = single.repeat(_BATCH, *[1] * (single.dim() - 1))
    if _differ(_list_steps(network, batch), reference):
        others.append(OtherInputs(batch, "a batch of another size"))
    if has_waiting_layers or any(step.operator in DATA_READERS for step in steps):
        brighter, *variants = _change_brightness(images)
        # Tensors may change places (`torch.cat([b, a])`) without another operator: one batch is always compared.
        others += [OtherInputs(brighter, BRIGHTNESS)] if _list_steps(network, brighter) is not None else []
        others += [
            OtherInputs(variant, BRIGHTNESS)
            for variant in variants
            if _differ(_list_steps(network, variant), steps, with_numbers=True)
        ]
    return others


def _change_brightness(images: Tensor) -> list[Tensor]:
    """Brighter images first, then darker ones, negative ones and grey ones."""
    variants = [images + 1, *(images * scale for scale in SCALES)]
    is_coloured = images.is_floating_point() and images.dim() > 1
    return [*variants, images.mean(1, keepdim=True).expand(images.shape)] if is_coloured else variants


def _stretch_images(images: Tensor) -> Iterator[Tensor]:
    """Taller images and wider ones."""
    dims = range(2, images.dim())
    if len(dims) > 1:
        yield from (_resize_images(images, 1.5, [dim]) for dim in dims)


def _resize_images(images: Tensor, scale: float, dims: Sequence[int] | None = None) -> Tensor:
    """As bright as before: pixels are left out or repeated, whatever their type and the number of dimensions."""
    for dim in range(2, images.dim()) if dims is None else dims:
        size = images.shape[dim]
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

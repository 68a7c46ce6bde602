"""Inputs like the example but for their size, brightness or values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from models.execution.inputs import Inputs

SCALES = (0.0, 0.1, 10.0, -10.0)
"""Factors on the images: branches on the data mostly compare a mean or a maximum."""


def change_brightness(images: Inputs) -> list[Inputs]:
    """Brighter images first, then darker ones, negative ones and grey ones."""

    def make_grey(tensor: Tensor) -> Tensor:
        dims = images.spatial_dims(tensor)
        return tensor.mean(dims.start - 1, keepdim=True).expand(tensor.shape) if dims else tensor

    variants = [images.map_floats(lambda tensor: tensor + 1), *map(images.scale, SCALES)]
    return [*variants, images.map_floats(make_grey)]


def stretch_images(images: Inputs) -> Iterator[Inputs]:
    """Taller images and wider ones."""
    count = max(len(images.spatial_dims(tensor)) for tensor in images.tensors)
    if count > 1:
        yield from (resize_images(images, 1.5, [number]) for number in range(count))


def resize_images(images: Inputs, scale: float, numbers: Sequence[int] | None = None) -> Inputs:
    """As bright as before: pixels are left out or repeated, whatever their type and the number of dimensions.

    Args:
        numbers: of the spatial dimensions that change; None: all.
    """

    def resize_tensor(tensor: Tensor) -> Tensor:
        dims = images.spatial_dims(tensor)
        for dim in dims if numbers is None else [dims[number] for number in numbers if number < len(dims)]:
            size = tensor.shape[dim]
            pixels = torch.linspace(0, size - 1, max(1, round(size * scale)), device=tensor.device).round().long()
            tensor = tensor.index_select(dim, pixels)
        return tensor

    return images.map(resize_tensor)


def make_noise(example: Inputs, count: int) -> Inputs:
    """Inputs like the example, their numbers noise of another scale."""
    generator = torch.Generator().manual_seed(count)
    return example.repeat(count).map_floats(
        lambda tensor: (4 * torch.randn(tensor.shape, generator=generator)).to(tensor)
    )


def images_of_other_sizes(example: Inputs) -> Iterator[Inputs]:
    """One smaller and one larger image."""
    for scale in (0.5, 1.5):
        yield make_noise(resize_images(example.first(), scale), 1)

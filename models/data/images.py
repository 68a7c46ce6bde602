"""Labelled images that hand out normalised batches: what is known of them, and what every way of keeping them shares.

Pixels are usually bytes, 0 to 255; a network sees `(pixel / 255 - mean) / std` per channel (`models.data.pixel_scales`
has the other scales). Augmentation pads with black pixels before that, as torchvision's RandomCrop does on pictures.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from models.data.labels import Label
from models.data.pixel_scales import BYTES, PixelScale
from models.data.training_batches import TrainingBatches


@dataclass(frozen=True)
class DataInfo:
    """What is known of a data set without looking at its images."""

    name: str
    shape: tuple[int, int, int]
    """(C, H, W)"""
    classes: int
    mean: tuple[float, ...]
    """Per channel, for pixels scaled to [0, 1]."""
    std: tuple[float, ...]
    flip: bool
    """Training images are mirrored at random."""
    crop: int
    """Training images are shifted by up to so many pixels; 0 = not."""
    pixels: PixelScale = BYTES
    """What the values of the images mean."""
    labels: tuple[Label, ...] = ()
    """The user's labels in order of the classes that they are; empty where labels are class numbers."""


class Images(TrainingBatches, ABC):
    """Positions in a store of labelled images, in memory or in files; subsets share the store."""

    def __init__(self, labels: Tensor, info: DataInfo, device: torch.device) -> None:
        """
        Args:
            labels: (N,) int64, on the CPU, of all images in the store.
            info: its `pixels` are the scale of the stored images.
            device: where batches are wanted.
        """
        self._all_labels, self._info, self._device = labels, info, device
        self._positions = torch.arange(len(labels))
        self._memory_format = torch.channels_last

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def labels(self) -> Tensor:
        """(len,) int64, on the CPU."""
        return self._all_labels[self._positions]

    def subset(self, indices: Tensor) -> Self:
        """The images at these positions, in this order; shares memory with this one."""
        images = copy.copy(self)
        images._positions = self._positions[indices]
        return images

    def in_memory_format(self, memory_format: torch.memory_format) -> Self:
        """The same images, whose batches come in that memory order."""
        images = copy.copy(self)
        images._memory_format = memory_format
        return images

    def batches(
        self, batch_size: int, *, seed: int | None = None, augment: bool = False, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of (N, C, H, W) float32 in the memory order asked for, normalised, and (N,) int64 labels.

        Both are on the device.

        Args:
            seed: Shuffles; None keeps the order. The same seed gives the same batches, augmentation included.
            augment: Crop and flip at random as the data set's info says.
            drop_last: Leave out a last batch that is not full, unless it is the only one.
        """
        # Everything random is drawn before the first batch, on the CPU: the same on every device and for every batch
        # size, and one transfer for the whole pass.
        generator = torch.Generator().manual_seed(0 if seed is None else seed)
        count = len(self)
        order = torch.arange(count) if seed is None else torch.randperm(count, generator=generator)
        positions = self._positions[order]
        labels = self._all_labels[positions].to(self._device)
        if drop_last and count > batch_size:
            count -= count % batch_size
        normalise = Normalise(self._info, self._device)
        for start, pixels in zip(
            range(0, count, batch_size),
            self._pixel_batches(positions, count, batch_size, generator, augment),
            strict=True,
        ):
            inputs = normalise(pixels).contiguous(memory_format=self._memory_format)
            yield inputs, labels[start : start + len(pixels)]

    @abstractmethod
    def _pixel_batches(
        self, positions: Tensor, count: int, batch_size: int, generator: torch.Generator, augment: bool
    ) -> Iterator[Tensor]:
        """Batches of (N, H, W, C) pixels on the device, those of the first `count` positions.

        Args:
            positions: in the store, in the order of the pass. What is drawn at random is drawn for all of them, so that
                a batch that is left out does not change the others.
            generator: of everything random.
            augment: crop and flip.
        """


class Normalise:
    """(N, H, W, C) pixels -> (N, C, H, W) float32, channels last; its constants are moved to the device once."""

    def __init__(self, info: DataInfo, device: torch.device) -> None:
        std, low = torch.tensor(info.std, dtype=torch.float64), info.pixels.low
        width = info.pixels.high - low
        self._scale = (1 / (width * std)).float().to(device)
        self._shift = ((torch.tensor(info.mean, dtype=torch.float64) + low / width) / std).float().to(device)

    def __call__(self, pixels: Tensor) -> Tensor:
        return pixels.to(torch.float32).mul_(self._scale).sub_(self._shift).permute(0, 3, 1, 2)

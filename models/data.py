"""The data that networks are trained and judged on: what a name stands for, and how batches are asked for.

Pixels are usually bytes, 0 to 255; a network sees `(pixel / 255 - mean) / std` per channel (`models.pixels` has the
other scales). Augmentation pads with black pixels before that, as torchvision's RandomCrop does on pictures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from models.errors import UserError, unknown
from models.labels import Label
from models.pixels import BYTES, PixelScale

if TYPE_CHECKING:
    from models.task import TaskConfig


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


class Images(Protocol):
    """Labelled images that hand out batches."""

    def __len__(self) -> int: ...

    @property
    def labels(self) -> Tensor:
        """(len,) int64, on the CPU."""

    def subset(self, indices: Tensor) -> Images:
        """The images at these positions, in this order; shares memory with this one."""

    def batches(
        self, batch_size: int, *, seed: int | None = None, augment: bool = False, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of (N, C, H, W) float32 in channels-last order, normalised, and (N,) int64 labels, on the device.

        Args:
            seed: Shuffles; None keeps the order. The same seed gives the same batches, augmentation included.
            augment: Crop and flip at random as the data set's info says.
            drop_last: Leave out a last batch that is not full, unless it is the only one.
        """


@dataclass(frozen=True)
class Data:
    """A data set, loaded."""

    info: DataInfo
    train: Images
    test: Images


NAMED = {
    "digits": DataInfo("digits", (1, 8, 8), 10, (0.3060,), (0.3763,), flip=False, crop=1),
    "cifar10": DataInfo(
        "cifar10", (3, 32, 32), 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), flip=True, crop=4
    ),
    "cifar100": DataInfo(
        "cifar100", (3, 32, 32), 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), flip=True, crop=4
    ),
    "svhn": DataInfo("svhn", (3, 32, 32), 10, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), flip=False, crop=4),
    "mnist": DataInfo("mnist", (1, 28, 28), 10, (0.1307,), (0.3081,), flip=False, crop=2),
    "fashion-mnist": DataInfo("fashion-mnist", (1, 28, 28), 10, (0.2860,), (0.3530,), flip=True, crop=2),
    "imagenet": DataInfo(
        "imagenet", (3, 224, 224), 1000, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), flip=True, crop=0
    ),
}
"""`imagenet` is a shape to plan with; its images come as `imagefolder:DIR`."""


def data_info(config: TaskConfig) -> DataInfo:
    """What a network for this data must look like; named sets are not touched, files are read as far as needed."""
    from models import folders, sources

    if config.data in NAMED:
        return _configured(NAMED[config.data], config)
    if config.data.startswith("imagefolder:"):
        return _configured(folders.folder_info(config.data), config)
    return _configured(_array_info(config, sources.read_arrays(config)), config)


def load_data(config: TaskConfig, device: torch.device) -> Data:
    """Read or download the data; in-memory sets go to the device if they fit there."""
    from models import folders, sources
    from models.arrays import ArrayImages

    if config.data == "imagenet":
        raise UserError("data 'imagenet' is a shape to plan with; give its images as imagefolder:DIR")
    if config.data.startswith("imagefolder:"):
        info = _configured(folders.folder_info(config.data), config)
        train, test = folders.open_folders(config.data, info, device)
        return Data(info, train, test)
    arrays = sources.read_arrays(config)
    info = _configured(NAMED.get(config.data) or _array_info(config, arrays), config)
    return Data(
        info,
        ArrayImages.place(arrays.x_train, arrays.y_train, info, device),
        ArrayImages.place(arrays.x_test, arrays.y_test, info, device),
    )


def data_identity(config: TaskConfig) -> str:
    """A string that is the same for the same data anywhere: a name, or a digest of the files' content."""
    from models import folders, sources

    if config.data in NAMED:
        return config.data
    return folders.folder_identity(config.data) if config.data.startswith("imagefolder:") else sources.identity(config)


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Positions of (the rest, the held-out part), each ascending.

    `round(fraction · n)` images are held out, each class in its proportion.
    """
    held = stratified_sample(labels, round(fraction * len(labels)), seed)
    mask = torch.ones(len(labels), dtype=torch.bool)
    mask[held] = False
    return mask.nonzero().flatten(), held


def stratified_sample(labels: Tensor, count: int, seed: int) -> Tensor:
    """Ascending positions of `count` images, each class in its proportion (largest remainder)."""
    present, sizes = torch.unique(labels, return_counts=True)
    exact = sizes.double() * count / max(len(labels), 1)
    quota = exact.floor().long()
    # Remainders rounded, so that equal ones stay equal and ties go to the lower class.
    by_remainder = torch.argsort((exact - quota).mul(1e9).round(), descending=True, stable=True)
    quota[by_remainder[: count - int(quota.sum())]] += 1
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label, size, take in zip(present, sizes, quota, strict=True):
        members = (labels == label).nonzero().flatten()
        chosen.append(members[torch.randperm(int(size), generator=generator)[: int(take)]])
    return torch.cat(chosen).sort().values if chosen else torch.empty(0, dtype=torch.long)


def _array_info(config: TaskConfig, arrays: sources.Arrays) -> DataInfo:  # type: ignore[name-defined]  # noqa: F821
    """Arrays of unknown origin: flips for colour alone, shifts by an eighth of the height."""
    _, height, width, channels = arrays.x_train.shape
    mean, std = (0.0,) * channels, (1.0,) * channels  # of images that are standardised
    if not arrays.pixels.standardised and (config.mean is None or config.std is None):
        mean, std = _statistics(arrays.x_train, arrays.pixels)
    return DataInfo(
        config.data,
        (channels, height, width),
        arrays.classes,
        mean,
        std,
        flip=channels == 3,
        crop=height // 8,
        pixels=arrays.pixels,
        labels=arrays.labels,
    )


def _statistics(images: Tensor, scale: PixelScale) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std per channel of (N, H, W, C) on the pixels' scale; exact sums, in chunks."""
    total = torch.zeros(images.shape[3], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for chunk in images.split(2048):
        # Bytes in float32, as ever: old ledgers know their tasks by these figures.
        exact = torch.float32 if images.dtype == torch.uint8 else torch.float64
        values = (chunk.reshape(-1, images.shape[3]).to(exact) - scale.low) / (scale.high - scale.low)
        total += values.sum(0, dtype=torch.float64)
        squares += values.square().sum(0, dtype=torch.float64)
    count = images.shape[0] * images.shape[1] * images.shape[2]
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    # A constant channel carries nothing and must not be blown up: less than a quarter of a byte's step, or rounding.
    bytes_ = images.dtype == torch.uint8
    std[std < (1e-3 if bytes_ else 1e-7 * mean.abs().clamp(min=1e-20))] = 1.0
    if bytes_:
        return tuple(np.round(mean.tolist(), 6).tolist()), tuple(np.round(std.tolist(), 6).tolist())
    return tuple(float(f"{x:.6g}") for x in mean.tolist()), tuple(float(f"{x:.6g}") for x in std.tolist())


def _configured(info: DataInfo, config: TaskConfig) -> DataInfo:
    """`info` with what the task overrides."""
    mean = _per_channel("mean", config.mean, info.mean, info.shape[0])
    std = _per_channel("std", config.std, info.std, info.shape[0])
    flip = info.flip if config.flip is None else config.flip
    crop = info.crop if config.crop is None else config.crop
    return replace(info, mean=mean, std=std, flip=flip, crop=crop)


def _per_channel(
    what: str, given: tuple[float, ...] | None, default: tuple[float, ...], channels: int
) -> tuple[float, ...]:
    if given is None:
        return default
    if len(given) != channels:
        raise UserError(f"{what} {given} has {len(given)} values but the images have {channels} channels")
    if not all(map(math.isfinite, given)) or (what == "std" and min(given) <= 0):
        raise UserError(f"{what} {given} must be {'finite and positive' if what == 'std' else 'finite'}")
    return tuple(given)


def unknown_data(name: str) -> UserError:
    """The error for a name that is no data set."""
    return unknown("data", name, [*NAMED, "imagefolder:DIR", "npz:FILE", "path/to/file.py:function"])

"""What a task's data name stands for: a named set, `imagefolder:DIR`, `npz:FILE`, or a user's function."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from models.data.array_images import ArrayImages, describe_arrays
from models.data.array_sources import array_identity, read_arrays
from models.data.folder_images import describe_folder, folder_identity, open_folder
from models.data.images import DataInfo, Images
from models.data.named_sets import NAMED_SETS
from models.errors import UserError
from models.task_config import TaskConfig
from models.wording import plural

_FOLDER_PREFIX = "imagefolder:"


@dataclass(frozen=True)
class Data:
    """A data set, loaded."""

    info: DataInfo
    train: Images
    test: Images


def data_info(config: TaskConfig) -> DataInfo:
    """What a network for this data must look like; named sets are not touched, files are read as far as needed."""
    if config.data in NAMED_SETS:
        return _with_overrides(NAMED_SETS[config.data], config)
    if config.data.startswith(_FOLDER_PREFIX):
        return _with_overrides(describe_folder(config.data), config)
    return _with_overrides(describe_arrays(read_arrays(config), config), config)


def load_data(config: TaskConfig, device: torch.device) -> Data:
    """Read or download the data; in-memory sets go to the device if they fit there."""
    if config.data == "imagenet":
        raise UserError("data 'imagenet' is a shape to plan with; give its images as imagefolder:DIR")
    if config.data.startswith(_FOLDER_PREFIX):
        info = _with_overrides(describe_folder(config.data), config)
        train, test = open_folder(config.data, info, device)
        return Data(info, train, test)
    arrays = read_arrays(config)
    info = _with_overrides(NAMED_SETS.get(config.data) or describe_arrays(arrays, config), config)
    return Data(
        info,
        ArrayImages.on_device(arrays.x_train, arrays.y_train, info, device),
        ArrayImages.on_device(arrays.x_test, arrays.y_test, info, device),
    )


def data_identity(config: TaskConfig) -> str:
    """A string that is the same for the same data anywhere: a name, or a digest of the files' content."""
    if config.data in NAMED_SETS:  # published, so the name alone stands for the content
        return config.data
    return folder_identity(config.data) if config.data.startswith(_FOLDER_PREFIX) else array_identity(config)


def _with_overrides(info: DataInfo, config: TaskConfig) -> DataInfo:
    """`info` with the normalisation and the augmentation that the task asks for in place of the data's own."""
    changed = replace(
        info,
        mean=_per_channel("mean", config.mean, info.mean, info.shape[0]),
        std=_per_channel("std", config.std, info.std, info.shape[0]),
        flip=info.flip if config.flip is None else config.flip,
        crop=info.crop if config.crop is None else config.crop,
    )
    if config.crop is not None:
        _check_crop(config.crop, info)
    return changed


def _check_crop(crop: int, info: DataInfo) -> None:
    """UserError for a shift that leaves nothing of an image, and where no shift takes place."""
    if info.name.startswith(_FOLDER_PREFIX):
        raise UserError(f"crop {crop} does not go with {info.name}: a random part of each picture is cut out already")
    if crop >= min(info.shape[1:]):
        raise UserError(f"crop {crop} leaves nothing of images of {info.shape[1]}×{info.shape[2]}")


def _per_channel(
    field: str, override: tuple[float, ...] | None, default: tuple[float, ...], channels: int
) -> tuple[float, ...]:
    """The override if there is one; UserError if it does not go with the images' channels."""
    if override is None:
        return default
    if len(override) != channels:
        counts = f"{plural(len(override), 'value')} but the images have {plural(channels, 'channel')}"
        raise UserError(f"{field} {override} has {counts}")
    if field == "std" and min(override) <= 0:
        raise UserError(f"std {override} must be positive")
    return tuple(override)

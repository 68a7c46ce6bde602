"""Data sets given as Python objects, (image, label) pairs by index, read into arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from models.data.array_checks import Array
from models.errors import UserError, first_line

DATA_FORMS = "give its name, four arrays x_train, y_train, x_test, y_test, or a training and a test data set"
_SAME_SHADE = 1e-3  # of a byte's step
_PICTURE_MODES = ("RGB", "L", "I;16", "I", "F")


def dataset_arrays(train: Any, test: Any) -> list[Array]:
    """x_train, y_train, x_test, y_test of two map-style data sets.

    Images may be pictures, arrays (H, W[, C]) or tensors ([C, ]H, W). Floats that ToTensor made of bytes are bytes
    again, if those of both sets are.
    """
    readers = [_DatasetReader(train), _DatasetReader(test)]
    if len({reader.images.dtype for reader in readers}) > 1:
        for reader in readers:
            reader.unpack_floats()
    return [array for reader in readers for array in (reader.images, np.asarray(reader.labels))]


class _DatasetReader:
    """Reads one data set's images, into one array, and its labels."""

    def __init__(self, dataset: Any) -> None:
        self._kind = kind = type(dataset).__name__
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise UserError(f"data of type {kind} cannot be indexed; {DATA_FORMS}")
        if not len(dataset):
            raise UserError(f"data of type {kind} is empty; {DATA_FORMS}")
        self.images: Array = np.empty(0)
        self.labels: list[Any] = []
        self._packed_from: np.dtype[Any] | None = None
        """The type of the floats that `images` holds as bytes."""
        for index in range(len(dataset)):
            try:
                item = dataset[index]
            except Exception as error:  # whatever a user's code raises
                reason = f"{type(error).__name__}: {first_line(error)}"
                raise UserError(f"item {index} of {kind} cannot be read: {reason}") from error
            if not isinstance(item, tuple | list) or len(item) != 2:
                raise UserError(f"item {index} of {kind} is no pair of image and label; {DATA_FORMS}")
            image, label = item
            self._store_image(_image_array(image), index, len(dataset))
            self.labels.append(label.item() if isinstance(label, Tensor | np.ndarray | np.generic) else label)

    def unpack_floats(self) -> None:
        """Make bytes that came as floats into floats of their old type again."""
        if self._packed_from is not None:
            self.images = (self.images / np.float32(255)).astype(self._packed_from)
            self._packed_from = None

    def _store_image(self, pixels: Array, index: int, count: int) -> None:
        shades = _pack_shades(pixels) if index == 0 or self._packed_from is not None else None
        if index == 0:  # filled one by one: a list of all images would take their memory twice
            self._packed_from = None if shades is None else pixels.dtype
            first = pixels if shades is None else shades
            self.images = np.empty((count, *first.shape), first.dtype)
        elif shades is None:
            self.unpack_floats()
        if pixels.shape != self.images.shape[1:]:
            raise UserError(f"images of {self._kind} differ in size; resize them, or use imagefolder:DIR")
        dtype = self._packed_from or self.images.dtype
        if pixels.dtype != dtype:
            raise UserError(f"images of {self._kind} differ in type, {dtype} and {pixels.dtype}; give all in one")
        self.images[index] = pixels if shades is None else shades


def _image_array(image: Any) -> Array:
    if isinstance(image, Tensor):
        array = image.detach().cpu().numpy()
        return array.transpose(1, 2, 0) if array.ndim == 3 else array
    if hasattr(image, "mode") and image.mode not in _PICTURE_MODES:
        image = image.convert("RGB" if image.mode not in ("1", "LA") else "L")
    return np.asarray(image)


def _pack_shades(pixels: Array) -> npt.NDArray[np.uint8] | None:
    """The bytes that ToTensor made these floats of; None if they hold more shades than 256."""
    if pixels.dtype.kind != "f":
        return None
    scaled = pixels.astype(np.float64) * 255
    shades = scaled.round()
    exact = np.abs(scaled - shades).max(initial=0) <= _SAME_SHADE and shades.min() >= 0 and shades.max() <= 255
    return shades.astype(np.uint8) if exact else None

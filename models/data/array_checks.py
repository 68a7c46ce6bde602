"""What arrays of images and labels must be, and the form that they are kept in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.data.duplicates import tell_duplicates
from models.data.labels import Label, read_labels
from models.data.pixels import BYTES, PixelScale, read_pixels
from models.errors import UserError
from models.tensor_digest import digest_tensors
from models.wording import plural

Array = npt.NDArray[Any]
ARRAY_NAMES = ("x_train", "y_train", "x_test", "y_test")
_SHAPES = "(N, C, H, W), (N, H, W, C) or (N, H, W)"


class Arrays(NamedTuple):
    """Checked arrays: images (N, H, W, C), classes (N,) int64 from 0, and how both were read."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    pixels: PixelScale = BYTES
    labels: tuple[Label, ...] = ()
    """In order of their classes; empty where labels are class numbers."""

    @property
    def classes(self) -> int:
        """How many classes the labels of both parts name."""
        return len(self.labels) or 1 + max(int(self.y_train.max()), int(self.y_test.max()))

    @property
    def by_name(self) -> dict[str, Tensor]:
        return dict(zip(ARRAY_NAMES, (self.x_train, self.y_train, self.x_test, self.y_test), strict=True))

    def content_digest(self) -> str:
        """Of everything; for bytes with class numbers that of the four arrays alone, as it always was."""
        tensors = list(self.by_name.items())
        if self.labels:
            tensors.append(("labels", torch.tensor(list(json.dumps(self.labels).encode()), dtype=torch.uint8)))
        return digest_tensors(tensors)

    def as_given(self) -> dict[str, Array]:
        """Arrays that are read as these again, labels included."""
        arrays: dict[str, Array] = {name: tensor.numpy() for name, tensor in self.by_name.items()}
        if self.labels:
            labels = np.asarray(self.labels)
            arrays |= {name: labels[arrays[name]] for name in ("y_train", "y_test")}
        return arrays


def check_arrays(arrays: Mapping[str, Any], source: str, *, published: bool = False, owned: bool = False) -> Arrays:
    """Bring images to (N, H, W, C) and labels to classes; UserError says what does not fit.

    Args:
        published: a set that everybody knows, so that nothing of it is worth a notice.
        owned: nobody else has the arrays: they may be changed, which spares a second copy.
    """
    arrays_by_name = {name: _as_array(arrays[name], f"{name} of {source}") for name in ARRAY_NAMES}
    images = {name: _channels_last(arrays_by_name[name], f"{name} of {source}") for name in ("x_train", "x_test")}
    for split in ("train", "test"):
        x, y = images[f"x_{split}"], arrays_by_name[f"y_{split}"]
        if len(x) != (len(y) if y.ndim else -1):
            what = plural(len(y), "label") if y.ndim == 1 else f"has shape {y.shape}; labels must be of shape (N,)"
            raise UserError(f"x_{split} of {source} holds {plural(len(x), 'image')} but y_{split} {what}")
        if not len(x):
            raise UserError(f"x_{split} of {source} is empty")
    train, test = (tuple(array.shape[1:]) for array in images.values())
    if train != test:
        raise UserError(f"images of {source} differ in shape: {train} for training, {test} for testing (H, W, C)")
    classes, labels = read_labels(arrays_by_name["y_train"], arrays_by_name["y_test"], source)
    if published:
        pixels, scale = [np.ascontiguousarray(array) for array in images.values()], BYTES
    else:
        pixels, scale = read_pixels(images, source, owned=owned)
        tell_duplicates(*pixels)
    x_train, y_train, x_test, y_test = map(torch.from_numpy, (pixels[0], classes[0], pixels[1], classes[1]))
    return Arrays(x_train, y_train, x_test, y_test, scale, labels)


def _as_array(value: Any, what: str) -> Array:
    """As numpy has it; UserError for what is no array of one shape."""
    if np.ma.is_masked(value):
        raise UserError(f"{what} has masked values; fill them in, as by filled(0), or leave these images out")
    try:
        if isinstance(value, Tensor):
            value = value.detach().cpu()
            value = value.to_dense() if value.layout != torch.strided else value
            value = value.float() if value.dtype == torch.bfloat16 else value  # numpy has none
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{what}, of type {type(value).__name__}, is no array whose rows all have one shape") from error


def _channels_last(array: Array, what: str) -> Array:
    """A view of (N, H, W, C)."""
    if array.dtype.kind == "O":
        raise UserError(f"{what} holds Python objects; images must be numbers, all of one shape")
    if array.ndim not in (3, 4) or 0 in array.shape[1:]:
        raise UserError(f"{what} has shape {array.shape}; images must be {_SHAPES}")
    if array.ndim == 3:
        return array[..., None]
    return array.transpose(0, 2, 3, 1) if _channels_first(array.shape) else array


def _channels_first(shape: tuple[int, ...]) -> bool:
    """Grey or colour channels tell; then square images; then the smaller side is the channels."""
    _, first, middle, last = shape
    few = (1, 3)
    if (first in few) != (last in few):
        return first in few
    if (middle == last) != (first == middle):
        return middle == last
    return first <= last

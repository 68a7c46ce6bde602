"""Test images that are training images as well: with them, accuracy on the test set says less than it seems to."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from models.notices import add_notice

_SAMPLED = 64  # values of an image that tell it from nearly all others, so that few are hashed whole


def tell_duplicates(train: npt.NDArray[Any], test: npt.NDArray[Any]) -> None:
    """Say how many test images are among the training images, value for value."""
    count = count_duplicates(train, test)
    if not count:
        return
    if len(train) == len(test) == count:
        add_notice("WARNING: the test images are the training images; accuracies on the test set are no results")
    else:
        add_notice(
            f"WARNING: {count:,} of the {len(test):,} test images are training images as well; "
            "accuracies on the test set are too high by what was learned of them"
        )


def count_duplicates(train: npt.NDArray[Any], test: npt.NDArray[Any]) -> int:
    """How many rows of `test` are rows of `train`; arrays of different types have none in common."""
    if train.dtype != test.dtype:
        return 0
    keys_train, keys_test = _keys(train), _keys(test)
    shared = set(keys_train) & set(keys_test)
    if not shared:
        return 0
    trained = {_digest(train[i]) for i, key in enumerate(keys_train) if key in shared}
    return sum(_digest(test[i]) in trained for i, key in enumerate(keys_test) if key in shared)


def _keys(images: npt.NDArray[Any]) -> list[bytes]:
    """A few values of every image, spread over all of it."""
    flat = images.reshape(len(images), -1)
    columns = np.unique(np.linspace(0, flat.shape[1] - 1, _SAMPLED).astype(np.int64))
    sample = np.ascontiguousarray(flat[:, columns])
    content, width = sample.tobytes(), sample.itemsize * len(columns)
    return [content[start : start + width] for start in range(0, len(content), width)]


def _digest(image: npt.NDArray[Any]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()

"""Test images that are training images as well: with them, accuracy on the test set says less than it seems to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.notices import add_notice

_END = 2**16  # bytes at the end of a picture that tell it from all others of its size
_MOST_FILES = 20_000  # some seconds of reading; more are compared by nobody who waits for a first screen
_SAMPLED = 64  # values of an image that tell it from nearly all others, so that few are hashed whole


def tell_duplicates(train: npt.NDArray[Any], test: npt.NDArray[Any]) -> None:
    """Say how many test images are among the training images, value for value."""
    _report_duplicates(count_duplicates(train, test), len(train), len(test))


def tell_same_files(train: Sequence[Path], test: Sequence[Path]) -> None:
    """Say how many test pictures are among the training pictures, file for file.

    Files of equal size are compared by their ends; where there are very many of these nothing is compared.
    """
    sizes = {file: file.stat().st_size for file in (*train, *test)}
    shared = {sizes[file] for file in train} & {sizes[file] for file in test}
    alike = [[file for file in files if sizes[file] in shared] for files in (train, test)]
    if not shared or sum(map(len, alike)) > _MOST_FILES:
        return
    ends = [[_file_ending(file, sizes[file]) for file in files] for files in alike]
    trained = set(ends[0])
    _report_duplicates(sum(end in trained for end in ends[1]), len(train), len(test))


def _report_duplicates(count: int, train: int, test: int) -> None:
    if not count:
        return
    if train == test == count:
        add_notice("WARNING: the test images are the training images; accuracies on the test set are no results")
    else:
        add_notice(
            f"WARNING: {count:,} of the {test:,} test images are training images as well; "
            "accuracies on the test set are too high by what was learned of them"
        )


def _file_ending(file: Path, size: int) -> tuple[int, bytes]:
    with file.open("rb") as opened:
        opened.seek(max(size - _END, 0))
        return size, hashlib.blake2b(opened.read(_END), digest_size=16).digest()


def count_duplicates(train: npt.NDArray[Any], test: npt.NDArray[Any]) -> int:
    """How many rows of `test` are rows of `train`; arrays of different types have none in common."""
    if train.dtype != test.dtype:
        return 0
    keys_train, keys_test = _sampled_values(train), _sampled_values(test)
    shared = set(keys_train) & set(keys_test)
    if not shared:
        return 0
    # Few values tell nearly all images apart; only images that agree on them are compared whole.
    trained = {_image_digest(train[i]) for i, key in enumerate(keys_train) if key in shared}
    return sum(_image_digest(test[i]) in trained for i, key in enumerate(keys_test) if key in shared)


def _sampled_values(images: npt.NDArray[Any]) -> list[bytes]:
    """A few values of every image, spread over all of it."""
    flat = images.reshape(len(images), -1)
    columns = np.unique(np.linspace(0, flat.shape[1] - 1, _SAMPLED).astype(np.int64))
    sample = np.ascontiguousarray(flat[:, columns])
    content, width = sample.tobytes(), sample.itemsize * len(columns)
    return [content[start : start + width] for start in range(0, len(content), width)]


def _image_digest(image: npt.NDArray[Any]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()

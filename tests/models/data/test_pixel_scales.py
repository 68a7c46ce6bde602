"""Training and test images on two scales are refused, unless few or dark images explain the smaller one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from models.data.array_checks import Arrays, check_arrays
from models.data.array_images import ArrayImages
from models.data.images import DataInfo
from models.errors import UserError
from models.notices import collect_notices

RANDOM = np.random.default_rng(0)
SHADES = RANDOM.integers(0, 256, (160, 6, 5, 3))
SHADES[::80, 0, 0], SHADES[::80, 0, 1] = 0, 255  # the whole range, in both parts
LABELS = np.arange(80) % 3
FLOATS = SHADES.astype(np.float32)
STANDARD = (FLOATS / 255 - 0.5) / 0.25


def read(train: Any, test: Any) -> tuple[Arrays, str]:
    """What is made of the images, and the notice on their scale."""
    labels = {"y_train": LABELS[: len(train)], "y_test": LABELS[: len(test)]}
    with collect_notices() as notices:
        arrays = check_arrays({"x_train": train, "x_test": test, **labels}, "here")
    return arrays, "; ".join(notices)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("count", [20, 80])
@pytest.mark.parametrize(
    ("train", "test"),
    [
        (SHADES.astype(np.uint8), (SHADES * 257).astype(np.uint16)),
        (SHADES, SHADES * 257),
        (FLOATS, FLOATS * 257),
        (FLOATS * 257, FLOATS / 255),
        (STANDARD, FLOATS),
        (STANDARD, FLOATS * 257),
        (STANDARD, FLOATS / 255),
        (FLOATS / 255 * 1.2, FLOATS),
        (SHADES.astype(np.uint8), (SHADES - 128).astype(np.int8)),
        (SHADES.astype(np.uint8), (SHADES - 128).astype(np.int16)),
        (SHADES, SHADES - 128),
    ],
)
def test_two_scales_are_refused(train: Any, test: Any, count: int, swapped: bool) -> None:
    parts = (train[:80], test[80 : 80 + count])
    with pytest.raises(UserError, match=r"on different scales, x_train holds .* and x_test holds .*; bring"):
        read(*(parts[::-1] if swapped else parts))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (SHADES[:80].astype(np.uint16) * 16, SHADES[80:84].astype(np.uint16)[:, :, :, :1].repeat(3, 3) // 2),
        (SHADES[:80] * 16, SHADES[80:] // 4),  # dark
        (SHADES[:80].astype(np.uint16) + 60, SHADES[80:].astype(np.uint16)),  # counts just beyond a byte
        (SHADES[:80].astype(np.int16) * 16 - 1000, SHADES[80:90].astype(np.int16) - 60),
        (SHADES[:80].astype(np.int8), np.abs((SHADES[80:] // 2).astype(np.int8))),
        (FLOATS[:80] * 16 - 1000, FLOATS[80:] * 9),
        (FLOATS[:80] / 255 * 1.2, FLOATS[80:] / 255),
        (FLOATS[:80] / 255 * 1.3 - 0.1, FLOATS[80:] / 255),
        (STANDARD[:80], np.abs(STANDARD[80:])),
    ],
)
def test_few_and_dark_images_are_on_the_scale_of_the_others(train: Any, test: Any) -> None:
    arrays, _ = read(train, test)
    both = [(values.astype(np.float64) - arrays.pixels.low) for values in (train, test)]
    for kept, given in zip((arrays.x_train, arrays.x_test), both, strict=True):
        np.testing.assert_allclose(kept.double().numpy() - arrays.pixels.low, given, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64])
def test_signed_bytes_are_on_the_scale_of_signed_bytes(dtype: Any) -> None:
    images = (SHADES - 128).astype(dtype)
    arrays, notice = read(images[:80], images[80:])
    assert "read on the scale from -128 to 127" in notice
    assert arrays.x_train.dtype == torch.int8
    info = DataInfo("here", (3, 6, 5), 3, (0.0,) * 3, (1.0,) * 3, flip=False, crop=2, pixels=arrays.pixels)
    (x, _), *_ = ArrayImages.on_device(arrays.x_train, arrays.y_train, info, torch.device("cpu")).batches(80)
    np.testing.assert_allclose(x.numpy(), SHADES[:80].transpose(0, 3, 1, 2) / 255, atol=1e-6)


def test_brightened_floats_are_normalised_by_their_own_mean_and_std() -> None:
    for factor in (1.2, 1.9, 2.6, 8.0):
        arrays, notice = read(FLOATS[:80] / 255 * factor, FLOATS[80:] / 255 * factor)
        assert (arrays.pixels.low, arrays.pixels.high) == (0, 1)
        assert "on no scale of pictures: normalised by their own mean and std" in notice

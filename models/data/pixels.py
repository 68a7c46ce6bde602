"""What the numbers in arrays of images mean: which value is black, which is white, and in which type they are kept.

Bytes are 0 to 255, or -128 to 127 if signed, by definition. Other types are read by the range of what they hold,
training and test images together, and the range that was chosen is said. Nothing is rounded to 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from models.data.pixel_scales import (
    BYTES,
    FREE,
    SIGNED,
    SIGNED_BYTES,
    SIXTEEN_BITS,
    UNIT,
    Content,
    PixelScale,
    is_brightened,
    may_share_scale,
)
from models.errors import UserError
from models.notices import add_notice
from models.wording import plural

Array = npt.NDArray[Any]
_CHUNK = 2**22  # values looked at together, so that looking takes little memory beside the images
_OVERSHOOT = 0.05  # bicubic resizing goes beyond black and white by a few hundredths of the range
_DIM_BYTES = 10.0  # floats that end below are rather brightened or overshot 0 to 1 than nearly black 0 to 255
_LIKE_STANDARD = (1.0, 0.1, 3.0)  # largest mean, least and largest std of values that count as standardised


def read_pixels(arrays: Mapping[str, Array], source: str, *, owned: bool = False) -> tuple[list[Array], PixelScale]:
    """The images in the type that they are kept in (uint8, uint16, int8, int16, float16 or float32), and their scale.

    Args:
        arrays: name -> images (N, H, W, C), not empty, maybe views of other layouts.
        source: where they come from, for error messages.
        owned: nobody else has the arrays, so they may be rearranged in their own memory.

    Raises:
        UserError: a type that holds no images, a value that is not finite, or values that mean nothing.
    """
    contents = [_content_of(name, array, source) for name, array in arrays.items()]
    scale = _common_scale(contents, source)
    if all(content.kind == "booleans" for content in contents):
        add_notice("images are booleans, read as black and white")
        return [np.ascontiguousarray(array, dtype=np.uint8) * np.uint8(255) for array in arrays.values()], BYTES
    # On these scales black is not 0, and the border that a random crop adds must not be brighter than the images.
    if scale in (SIGNED_BYTES, SIGNED, FREE):
        scale = replace(scale, black=_least_by_channel(arrays.values()))
    if scale.low == 0 and scale.black and any(c.low < 0 for c in contents) and not all(map(is_brightened, contents)):
        # Values with mean 0 and std 1 were standardised by the user: doing so again would only lose what they chose.
        mean, std = _mean_and_std(arrays.values())
        most, *between = _LIKE_STANDARD
        scale = replace(scale, standardised=abs(mean) <= most and between[0] <= std <= between[1])
    if any(content.dtype != np.uint8 for content in contents):
        add_notice(_describe_reading(contents, scale))
    return [_convert_pixels(array, scale, owned) for array in arrays.values()], scale


def _image_chunks(array: Array) -> Iterator[Array]:
    """Views of consecutive images, about `_CHUNK` values in each."""
    images = max(_CHUNK // max(array[0].size, 1), 1)
    for start in range(0, len(array), images):
        yield array[start : start + images]


def _content_of(name: str, array: Array, source: str) -> Content:
    """Extremes; UserError for what is no number or not finite."""
    if array.dtype.kind not in "buif":
        raise UserError(f"{name} of {source} has type {array.dtype}; images must be whole numbers or floats")
    low, high, constant = np.inf, -np.inf, 0
    for chunk in _image_chunks(array):
        least, most = chunk.min((1, 2, 3)), chunk.max((1, 2, 3))
        if not (np.isfinite(least).all() and np.isfinite(most).all()):
            raise _not_finite(f"{name} of {source}", array)
        constant += int((least == most).sum())
        low, high = min(low, float(least.min())), max(high, float(most.max()))
    if max(-low, high) > float(np.finfo(np.float32).max):
        raise UserError(f"{name} of {source} holds {max(-low, high, key=abs):g}, too large for float32; scale it down")
    if constant:
        add_notice(f"{constant:,} of the {len(array):,} images in {name} are of one single value")
    return Content(name, array.dtype, len(array), low, high)


def _not_finite(what: str, array: Array) -> UserError:
    count, start, first = 0, 0, ""
    for chunk in _image_chunks(array):
        wrong = ~np.isfinite(chunk)
        count += int(wrong.sum())
        if not first and wrong.any():
            image, row, column, channel = np.argwhere(wrong)[0].tolist()
            first = f"image {start + image}, row {row}, column {column}, channel {channel}"
        start += len(chunk)
    return UserError(f"{what} holds {plural(count, 'value')} of NaN or infinity, the first in {first}; replace them")


def _common_scale(contents: list[Content], source: str) -> PixelScale:
    """The scale of all parts; UserError if they are plainly on different ones."""
    scaled = [(content, _scale_of(content, source)) for content in contents]
    for first, second in combinations(scaled, 2):
        if not may_share_scale(*first, *second):
            ranges = " and ".join(
                f"{content.name} holds {content.dtype} from {content.low:g} to {content.high:g}"
                for content in (first[0], second[0])
            )
            raise UserError(f"images of {source} are on different scales, {ranges}; bring both to the same")
    low, high = min(content.low for content in contents), max(content.high for content in contents)
    return _scale_of(replace(contents[0], low=low, high=high), source)


def _scale_of(content: Content, source: str) -> PixelScale:
    """What a range of values means; `FREE` for floats that are on no scale of pictures."""
    low, high = content.low, content.high
    if content.kind == "booleans":
        return UNIT
    if content.kind == "whole numbers":
        if content.dtype == np.int8 or (low < 0 and SIGNED_BYTES.low <= low and high <= SIGNED_BYTES.high):
            return SIGNED_BYTES
        if low >= 0 and high <= SIXTEEN_BITS.high:
            return BYTES if high <= BYTES.high else SIXTEEN_BITS
        if low >= SIGNED.low and high <= SIGNED.high:
            return SIGNED
        range_ = f"from {low:,.0f} to {high:,.0f}"
        raise UserError(f"{content.name} of {source} holds whole numbers {range_}, more than 16 bits; give floats")
    if low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT:
        return UNIT
    if high <= _DIM_BYTES:
        return FREE
    # Standardised pictures that are mostly black barely go below 0: an overshoot needs bright pixels beside it.
    dark = -_OVERSHOOT * BYTES.high if high >= BYTES.high / 2 else 0.0
    if low >= dark and high <= BYTES.high * (1 + _OVERSHOOT):
        return BYTES
    return SIXTEEN_BITS if low >= 0 and high <= SIXTEEN_BITS.high else FREE


def _least_by_channel(arrays: Iterable[Array]) -> tuple[float, ...]:
    least = [chunk.min((0, 1, 2)).astype(np.float64) for array in arrays for chunk in _image_chunks(array)]
    return tuple(np.min(least, axis=0).tolist())


def _mean_and_std(arrays: Iterable[Array]) -> tuple[float, float]:
    """Mean and standard deviation of all values together."""
    count, total, squares = 0, 0.0, 0.0
    for array in arrays:
        for chunk in _image_chunks(array):
            values = chunk.astype(np.float64)
            count, total, squares = count + values.size, total + values.sum(), squares + np.square(values).sum()
    mean = total / count
    return float(mean), float(max(squares / count - mean**2, 0.0) ** 0.5)


def _describe_reading(contents: list[Content], scale: PixelScale) -> str:
    types = " and ".join(dict.fromkeys(str(content.dtype) for content in contents))
    low, high = min(content.low for content in contents), max(content.high for content in contents)
    held = f"images are {types} from {low:,.6g} to {high:,.6g}"
    if scale.standardised:
        return f"{held}, standardised already: taken as they are"
    if scale.low == 0 and scale.black:
        return f"{held}, on no scale of pictures: normalised by their own mean and std"
    return f"{held}, read on the scale from {scale.low:,.6g} to {scale.high:,.6g}"


def _convert_pixels(array: Array, scale: PixelScale, owned: bool) -> Array:
    """In the smallest type that loses nothing a network could see."""
    if array.dtype.kind in "iu":
        by_white = {BYTES.high: np.uint8, SIXTEEN_BITS.high: np.uint16, SIGNED_BYTES.high: np.int8}
        dtype: Any = by_white.get(scale.high, np.int16)
    else:
        dtype = array.dtype if array.dtype in (np.float16, np.float32) else np.float32
    if owned and dtype == array.dtype and array.transpose(0, 3, 1, 2).flags.c_contiguous:
        return _rearrange_in_place(array)
    return np.ascontiguousarray(array, dtype=dtype)


def _rearrange_in_place(array: Array) -> Array:
    """A view of (N, C, H, W) images as contiguous (N, H, W, C), image by image in the same memory."""
    same_memory = array.transpose(0, 3, 1, 2).reshape(array.shape)
    for source, target in zip(_image_chunks(array), _image_chunks(same_memory), strict=True):
        target[...] = source.copy()
    return same_memory

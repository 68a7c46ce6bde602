"""Scales that images come on, and whether two arrays can be on one and the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_MANY = 50  # images of one distribution: so many show both its ends
_APART = 3.0  # times: the brightest values of two parts of one data set hardly differ by more
_BRIGHTENED = (-0.3, 2.0)  # where values end that were 0 to 1 and got brightened, sharpened or resized


@dataclass(frozen=True)
class PixelScale:
    """Which values stand for 0 and for 1; a network sees `((value - low) / (high - low) - mean) / std`."""

    low: float = 0.0
    high: float = 255.0
    black: tuple[float, ...] = ()
    """What lies beyond an image's border, per channel; empty: 0."""
    standardised: bool = False
    """The values are normalised already: without a mean and std of the user's they meet the network as they are."""


BYTES = PixelScale()
UNIT = PixelScale(high=1.0)
SIXTEEN_BITS = PixelScale(high=2.0**16 - 1)
SIGNED_BYTES = PixelScale(-128.0, 127.0)
SIGNED = PixelScale(-(2.0**15), 2.0**15 - 1)
FREE = PixelScale(0.0, 1.0, black=(0.0,))  # on no scale of pictures: values count as they are


@dataclass(frozen=True)
class Content:
    """What one array holds."""

    name: str
    dtype: np.dtype[Any]
    images: int
    low: float
    high: float

    @property
    def kind(self) -> str:
        return {"b": "booleans", "f": "floats"}.get(self.dtype.kind, "whole numbers")


def is_brightened(content: Content) -> bool:
    """Whether values were probably on 0 to 1 and went beyond it a little, which standardised ones do not."""
    return content.low >= _BRIGHTENED[0] and content.high <= _BRIGHTENED[1]


def may_share_scale(first: Content, first_scale: PixelScale, second: Content, second_scale: PixelScale) -> bool:
    """Whether arrays that show these scales can be on one: the range of one is that of few or of dark images."""
    if first_scale == second_scale:
        return True
    if first.kind != second.kind:
        return False
    if FREE in (first_scale, second_scale) and is_brightened(first) and is_brightened(second):
        return True
    return _is_explained(first, first_scale, second, second_scale) or _is_explained(
        second, second_scale, first, first_scale
    )


def _is_explained(narrow: Content, scale: PixelScale, wide: Content, wide_scale: PixelScale) -> bool:
    """Whether images on `wide_scale` can show no more than what `narrow` holds."""
    if narrow.dtype.kind in "iu":
        bounds = np.iinfo(narrow.dtype)
        if wide.low < bounds.min or wide.high > bounds.max:  # uint8 cannot be on the scale of 16 bits
            return False
    if wide_scale == FREE:  # no ends to compare with: twice the range that is seen
        within = max(-narrow.low, narrow.high) <= 2 * max(-wide.low, wide.high)
    else:
        within = wide_scale.low <= narrow.low and narrow.high <= wide_scale.high
    if not within:
        return False
    # A few images can all be dark; but no chance hits both ends of a scale exactly.
    few = narrow.images < _MANY and (narrow.low, narrow.high) != (scale.low, scale.high)
    if UNIT in (scale, wide_scale) or scale == FREE:  # 0 to 1, brightened or standardised, beside larger numbers
        return few and (wide_scale == FREE or not (scale == UNIT or is_brightened(narrow)))
    if wide.high - wide.low <= _APART * (narrow.high - narrow.low):
        return True
    return few or narrow.high - narrow.low < (scale.high - scale.low) / 2

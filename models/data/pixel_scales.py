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


def may_share_scale(first: Content, scale: PixelScale, second: Content, other: PixelScale) -> bool:
    """Whether arrays that show these scales can be on one: the range of one is that of few or of dark images."""
    if scale == other:
        return True
    if first.kind != second.kind:
        return False
    if FREE in (scale, other) and is_brightened(first) and is_brightened(second):
        return True
    return _is_explained(first, scale, second, other) or _is_explained(second, other, first, scale)


def _is_explained(part: Content, scale: PixelScale, wide: Content, other: PixelScale) -> bool:
    """Whether images on `other` can show no more than what `part` holds."""
    if part.dtype.kind in "iu":
        bounds = np.iinfo(part.dtype)
        if wide.low < bounds.min or wide.high > bounds.max:  # uint8 cannot be on the scale of 16 bits
            return False
    reach = 2 * max(-wide.low, wide.high)
    within = max(-part.low, part.high) <= reach if other == FREE else other.low <= part.low and part.high <= other.high
    if not within:
        return False
    few = part.images < _MANY and (part.low, part.high) != (scale.low, scale.high)  # no chance hits both ends exactly
    if UNIT in (scale, other) or scale == FREE:  # 0 to 1, brightened or standardised, beside larger numbers
        return few and (other == FREE or not (scale == UNIT or is_brightened(part)))
    if wide.high - wide.low <= _APART * (part.high - part.low):
        return True
    return few or part.high - part.low < (scale.high - scale.low) / 2

"""Tables of small numbers at their bit width, most significant bit first, without gaps between values."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def bits_for(values: int) -> int:
    """Bits that tell `values` different values apart, ⌈log₂⌉: 0 for one."""
    assert values >= 1
    return (values - 1).bit_length()


def pack_bits(values: Tensor, width: int) -> npt.NDArray[np.uint8]:
    """Every value (0 <= v < 2**width) as `width` bits, each bit one element of 0 or 1."""
    numbers = values.detach().cpu().numpy().astype(np.int64).reshape(-1, 1)
    assert numbers.size == 0 or (numbers.min() >= 0 and numbers.max() < 1 << width)
    return ((numbers >> np.arange(width - 1, -1, -1)) & 1).astype(np.uint8).reshape(-1)


def to_bytes(*fields: npt.NDArray[np.uint8]) -> Tensor:
    """Fields of bits one after the other, as uint8; the last byte is filled up with zeros."""
    return torch.from_numpy(np.packbits(np.concatenate(fields) if fields else np.zeros(0, np.uint8)))


class BitReader:
    """Reads back, in the same order, what `pack_bits` and `to_bytes` wrote."""

    def __init__(self, packed: Tensor) -> None:
        self._bits = np.unpackbits(packed.cpu().numpy())
        self._at = 0

    def read_values(self, count: int, width: int) -> Tensor:
        """The next `count` values of `width` bits, (count,) int64; ValueError if the table is too short."""
        end = self._at + count * width
        if end > len(self._bits):
            raise ValueError(f"an index table ends after {len(self._bits)} bits where {end} are needed")
        bits = self._bits[self._at : end].reshape(count, width).astype(np.int64)
        self._at = end
        return torch.from_numpy(bits @ (1 << np.arange(width - 1, -1, -1, dtype=np.int64)))

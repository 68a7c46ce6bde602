"""Images in memory, in the type they came in; batches are cut, augmented and normalised together on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from models.data.base import DataInfo
from models.data.pixels import BYTES, PixelScale

_CHUNK = 1024  # images packed together
_SAME_SHADE = 1e-4  # of a byte's step: float32 knows a 255th to 2e-5 of it
_SHARE_OF_FREE_MEMORY = 0.25  # networks, activations and other workers on the same GPU need the rest


class ArrayImages:
    """Positions in one (N, H, W, C) tensor, which subsets share."""

    def __init__(self, images: Tensor, labels: Tensor, positions: Tensor, info: DataInfo, device: torch.device) -> None:
        """`info.pixels` must be the scale of these images (`place` changes it where it packs them)."""
        self._images, self._all_labels, self._positions = images, labels, positions
        self._info, self._device = info, device

    @classmethod
    def place(cls, images: Tensor, labels: Tensor, info: DataInfo, device: torch.device) -> ArrayImages:
        """Move the images to the device if they take at most a quarter of its free memory; else they stay here."""
        packed = packed_bytes(images, info.pixels)
        if packed is not None:
            images, info = packed, replace(info, pixels=BYTES)
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if images.nbytes <= free * _SHARE_OF_FREE_MEMORY:
                images = images.to(device)
        return cls(images.contiguous(), labels, torch.arange(len(labels)), info, device)

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def labels(self) -> Tensor:
        return self._all_labels[self._positions]

    def subset(self, indices: Tensor) -> ArrayImages:
        return ArrayImages(self._images, self._all_labels, self._positions[indices], self._info, self._device)

    def _select(self, positions: Tensor) -> Tensor:
        """The images at these positions, on the device."""
        # torch has no index_select of uint16 on every device; the same bits as int16 can be moved just as well.
        bits = self._images.view(torch.int16) if self._images.dtype == torch.uint16 else self._images
        return bits.index_select(0, positions).to(self._device, non_blocking=True)

    def batches(
        self, batch_size: int, *, seed: int | None = None, augment: bool = False, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        # Everything random is drawn once, on the CPU: the same on every device, and one transfer for the whole pass.
        generator = torch.Generator().manual_seed(0 if seed is None else seed)
        count = len(self)
        order = torch.arange(count) if seed is None else torch.randperm(count, generator=generator)
        positions = self._positions[order]
        labels = self._all_labels[positions].to(self._device)
        shifts = torch.randint(0, 2 * self._info.crop + 1, (2, count), generator=generator).to(self._device)
        mirrored = torch.rand(count, generator=generator).lt(0.5).to(self._device)
        positions = positions.to(self._images.device)
        normalise = Normalise(self._info, self._device)
        for start in range(0, count, batch_size):
            part = slice(start, start + batch_size)
            if drop_last and start > 0 and start + batch_size > count:
                return
            pixels = self._select(positions[part])
            if augment:
                sides = mirrored[part] if self._info.flip else None
                black = self._info.pixels.black
                pixels = shifted_and_mirrored(pixels, shifts[:, part], sides, self._info.crop, black)
            yield normalise(pixels.view(self._images.dtype)), labels[part]


def packed_bytes(images: Tensor, scale: PixelScale) -> Tensor | None:
    """The same images as bytes, in a quarter of the memory; None if they hold more shades than 256, or are bytes.

    Floats and 16-bit values have usually been bytes, divided by 255 or multiplied by 257.
    """
    if images.dtype == torch.uint8 or scale.black:
        return None
    packed = torch.empty(images.shape, dtype=torch.uint8)
    for part, room in zip(images.split(_CHUNK), packed.split(_CHUNK), strict=True):
        shades = (part.to(torch.float64) - scale.low) * (255 / (scale.high - scale.low))
        nearest = shades.round()
        if (shades - nearest).abs().max() > _SAME_SHADE or nearest.min() < 0 or nearest.max() > 255:
            return None
        room.copy_(nearest)
    return packed


def shifted_and_mirrored(
    pixels: Tensor, shifts: Tensor, mirrored: Tensor | None, pad: int, black: Sequence[float] = ()
) -> Tensor:
    """Each image's own window of itself, black beyond its borders, and some of them mirrored.

    Args:
        pixels: (N, H, W, C).
        shifts: (2, N), the window's first row and column in the image padded by `pad` on all sides.
        mirrored: (N,) bool.
        black: of each channel; empty: 0.
    """
    count, height, width, channels = pixels.shape
    device = pixels.device
    rows = torch.arange(height, device=device) + shifts[0, :, None]  # (N, H)
    columns = torch.arange(width, device=device).expand(count, width)
    if mirrored is not None:
        columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
    columns = columns + shifts[1, :, None]  # (N, W)
    padded = F.pad(pixels, (0, 0, pad, pad, pad, pad))
    if pad and any(black):
        padded.copy_(torch.tensor(black).to(padded))
        padded[:, pad:-pad, pad:-pad] = pixels
    images = torch.arange(count, device=device)[:, None] * padded.shape[1]
    flat = (images + rows)[:, :, None] * padded.shape[2] + columns[:, None, :]  # (N, H, W), into pixels of all images
    return padded.view(-1, channels).index_select(0, flat.view(-1)).view(count, height, width, channels)


class Normalise:
    """(N, H, W, C) pixels -> (N, C, H, W) float32, channels last; its constants are moved to the device once."""

    def __init__(self, info: DataInfo, device: torch.device) -> None:
        std, low = torch.tensor(info.std, dtype=torch.float64), info.pixels.low
        width = info.pixels.high - low
        self._scale = (1 / (width * std)).float().to(device)
        self._shift = ((torch.tensor(info.mean, dtype=torch.float64) + low / width) / std).float().to(device)

    def __call__(self, pixels: Tensor) -> Tensor:
        return pixels.to(torch.float32).mul_(self._scale).sub_(self._shift).permute(0, 3, 1, 2)

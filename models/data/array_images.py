"""Images in memory, in the type they came in; batches are cut and augmented together on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.data.array_checks import Arrays
from models.data.images import DataInfo, Images
from models.data.pixel_scales import BYTES, PixelScale
from models.task_config import TaskConfig

_CHUNK = 1024  # images packed together
_SAME_SHADE = 1e-4  # of a byte's step: float32 knows a 255th to 2e-5 of it
_SHARE_OF_FREE_MEMORY = 0.25  # networks, activations and other workers on the same GPU need the rest


class ArrayImages(Images):
    """Images in one (N, H, W, C) tensor."""

    def __init__(self, pixels: Tensor, labels: Tensor, info: DataInfo, device: torch.device) -> None:
        """`info.pixels` must be the scale of these pixels (`on_device` changes it where it packs them)."""
        super().__init__(labels, info, device)
        self._pixels = pixels

    @classmethod
    def on_device(cls, pixels: Tensor, labels: Tensor, info: DataInfo, device: torch.device) -> ArrayImages:
        """Move the images to the device if they take at most a quarter of its free memory; else they stay here."""
        packed = packed_bytes(pixels, info.pixels)
        if packed is not None:
            pixels, info = packed, replace(info, pixels=BYTES)
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)  # bytes
            if pixels.nbytes <= free * _SHARE_OF_FREE_MEMORY:
                pixels = pixels.to(device)
        return cls(pixels.contiguous(), labels, info, device)

    def _pixel_batches(
        self, positions: Tensor, count: int, batch_size: int, generator: torch.Generator, augment: bool
    ) -> Iterator[Tensor]:
        shifts = torch.randint(0, 2 * self._info.crop + 1, (2, len(positions)), generator=generator).to(self._device)
        mirrored = torch.rand(len(positions), generator=generator).lt(0.5).to(self._device)
        # torch has no index_select of uint16 on every device; the same bits as int16 can be moved just as well.
        bits = self._pixels.view(torch.int16) if self._pixels.dtype == torch.uint16 else self._pixels
        positions = positions.to(bits.device)
        for start in range(0, count, batch_size):
            batch = slice(start, min(start + batch_size, count))
            pixels = bits.index_select(0, positions[batch]).to(self._device, non_blocking=True)
            if augment:
                sides = mirrored[batch] if self._info.flip else None
                black = self._info.pixels.black
                pixels = shifted_and_mirrored(pixels, shifts[:, batch], sides, self._info.crop, black)
            yield pixels.view(self._pixels.dtype)


def describe_arrays(arrays: Arrays, config: TaskConfig) -> DataInfo:
    """What is known of arrays of unknown origin: flips for colour alone, shifts by an eighth of the height."""
    _, height, width, channels = arrays.x_train.shape
    mean, std = (0.0,) * channels, (1.0,) * channels  # of images that are standardised
    # The statistics take a pass over all images, and nobody asks for them where the task brings its own.
    if not arrays.pixels.standardised and (config.mean is None or config.std is None):
        mean, std = _channel_statistics(arrays.x_train, arrays.pixels)
    return DataInfo(
        config.data,
        (channels, height, width),
        arrays.classes,
        mean,
        std,
        flip=channels == 3,
        crop=height // 8,
        pixels=arrays.pixels,
        labels=arrays.labels,
    )


def _channel_statistics(images: Tensor, scale: PixelScale) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std per channel of (N, H, W, C) on the pixels' scale; exact sums, in chunks."""
    total = torch.zeros(images.shape[3], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for chunk in images.split(2048):
        # Bytes in float32, as ever: old ledgers know their tasks by these figures.
        exact = torch.float32 if images.dtype == torch.uint8 else torch.float64
        values = (chunk.reshape(-1, images.shape[3]).to(exact) - scale.low) / (scale.high - scale.low)
        total += values.sum(0, dtype=torch.float64)
        squares += values.square().sum(0, dtype=torch.float64)
    count = images.shape[0] * images.shape[1] * images.shape[2]
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    # A constant channel carries nothing and must not be blown up: less than a quarter of a byte's step, or rounding.
    bytes_ = images.dtype == torch.uint8
    std[std < (1e-3 if bytes_ else 1e-7 * mean.abs().clamp(min=1e-20))] = 1.0
    if bytes_:
        return tuple(np.round(mean.tolist(), 6).tolist()), tuple(np.round(std.tolist(), 6).tolist())
    return tuple(float(f"{x:.6g}") for x in mean.tolist()), tuple(float(f"{x:.6g}") for x in std.tolist())


def packed_bytes(images: Tensor, scale: PixelScale) -> Tensor | None:
    """The same images as bytes, in a quarter of the memory; None if they hold more shades than 256, or are bytes.

    Floats and 16-bit values have usually been bytes, divided by 255 or multiplied by 257.
    """
    if images.dtype == torch.uint8 or scale.black:
        return None
    packed = torch.empty(images.shape, dtype=torch.uint8)
    for chunk, packed_chunk in zip(images.split(_CHUNK), packed.split(_CHUNK), strict=True):
        shades = (chunk.to(torch.float64) - scale.low) * (255 / (scale.high - scale.low))
        nearest = shades.round()
        if (shades - nearest).abs().max() > _SAME_SHADE or nearest.min() < 0 or nearest.max() > 255:
            return None
        packed_chunk.copy_(nearest)
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
    # One gather for the whole batch: each output pixel's number in the flattened padded images.
    images = torch.arange(count, device=device)[:, None] * padded.shape[1]  # (N, 1), rows before each image
    flat = (images + rows)[:, :, None] * padded.shape[2] + columns[:, None, :]  # (N, H, W), into pixels of all images
    return padded.view(-1, channels).index_select(0, flat.view(-1)).view(count, height, width, channels)

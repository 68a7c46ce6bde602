"""Images in memory, as bytes; batches are cut, augmented and normalised together on the device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from models.data import DataInfo

_SHARE_OF_FREE_MEMORY = 0.25  # networks, activations and other workers on the same GPU need the rest


class ArrayImages:
    """Positions in one (N, H, W, C) uint8 tensor, which subsets share."""

    def __init__(self, images: Tensor, labels: Tensor, positions: Tensor, info: DataInfo, device: torch.device) -> None:
        self._images, self._all_labels, self._positions = images, labels, positions
        self._info, self._device = info, device

    @classmethod
    def place(cls, images: Tensor, labels: Tensor, info: DataInfo, device: torch.device) -> ArrayImages:
        """Move the images to the device if they take at most a quarter of its free memory; else they stay here."""
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
            pixels = self._images.index_select(0, positions[part]).to(self._device, non_blocking=True)
            if augment:
                pixels = shifted_and_mirrored(
                    pixels, shifts[:, part], mirrored[part] if self._info.flip else None, self._info.crop
                )
            yield normalise(pixels), labels[part]


def shifted_and_mirrored(pixels: Tensor, shifts: Tensor, mirrored: Tensor | None, pad: int) -> Tensor:
    """Each image's own window of itself, black beyond its borders, and some of them mirrored.

    Args:
        pixels: (N, H, W, C).
        shifts: (2, N), the window's first row and column in the image padded by `pad` on all sides.
        mirrored: (N,) bool.
    """
    count, height, width, channels = pixels.shape
    device = pixels.device
    rows = torch.arange(height, device=device) + shifts[0, :, None]  # (N, H)
    columns = torch.arange(width, device=device).expand(count, width)
    if mirrored is not None:
        columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
    columns = columns + shifts[1, :, None]  # (N, W)
    padded = F.pad(pixels, (0, 0, pad, pad, pad, pad))
    images = torch.arange(count, device=device)[:, None] * padded.shape[1]
    flat = (images + rows)[:, :, None] * padded.shape[2] + columns[:, None, :]  # (N, H, W), into pixels of all images
    return padded.view(-1, channels).index_select(0, flat.view(-1)).view(count, height, width, channels)


class Normalise:
    """(N, H, W, C) bytes -> (N, C, H, W) float32, channels last; its constants are moved to the device once."""

    def __init__(self, info: DataInfo, device: torch.device) -> None:
        std = torch.tensor(info.std, dtype=torch.float64)
        self._scale = (1 / (255 * std)).float().to(device)
        self._shift = (torch.tensor(info.mean, dtype=torch.float64) / std).float().to(device)

    def __call__(self, pixels: Tensor) -> Tensor:
        return pixels.to(torch.float32).mul_(self._scale).sub_(self._shift).permute(0, 3, 1, 2)

"""Images in folders, `imagefolder:DIR`, streamed through loader processes.

`DIR/train/CLASS/*` and `DIR/val/CLASS/*` (or `valid`, `validation`, `test`) are read as RGB (`models.data.pictures`). A
training image is a random part of the picture, resized to 224×224 and mirrored at random; a judged one is resized to
256 on its shorter side and cut in the middle. `imagefolder:DIR@SIZE` asks for another size, with the same proportions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.data.arrays import Normalise
from models.data.base import NAMED, DataInfo
from models.data.picture_folders import class_names, read_folder
from models.data.pictures import WHITE_16_BIT, UnreadablePictureError, decoded, quiet_pillow
from models.paths import user_path

_SIZE = 224
_SHORT_SIDE = 256 / 224  # of the resized picture, relative to the part that is cut out of it
_AREA, _ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)  # of a random part, as usual for ImageNet
_MOST_PROCESSES = 8


def folder_info(name: str) -> DataInfo:
    """Shape and classes; ImageNet's mean and std."""
    root, size = _split(name)
    imagenet = NAMED["imagenet"]
    classes = class_names(root)
    shape, mean, std = (3, size, size), imagenet.mean, imagenet.std
    return DataInfo(name, shape, len(classes), mean, std, flip=True, crop=0, labels=tuple(classes))


def folder_identity(name: str) -> str:
    """A digest of the file names of both parts, relative to the folder, and of the size."""
    root, size = _split(name)
    digest = hashlib.sha256(str(size).encode())
    pictures = read_folder(root)
    for part in (pictures.train, pictures.test):
        for file, label in zip(part.files, part.labels, strict=True):
            digest.update(f"{file.relative_to(root)}:{label}\n".encode("utf-8", "surrogateescape"))
    return "imagefolder:" + digest.hexdigest()[:20]


def open_folders(name: str, info: DataInfo, device: torch.device) -> tuple[FolderImages, FolderImages]:
    """The training and the test part."""
    pictures = read_folder(_split(name)[0])
    white = pictures.deep_white
    train, test = (
        FolderImages(list(map(str, part.files)), torch.tensor(part.labels), None, info, device, white)
        for part in (pictures.train, pictures.test)
    )
    return train, test


def _split(name: str) -> tuple[Path, int]:
    """The directory and the image size of `imagefolder:DIR[@SIZE]`."""
    text = name.removeprefix("imagefolder:")
    head, at, size = text.rpartition("@")
    if at and size.isdigit() and int(size) > 0 and not Path(text).is_dir():
        return user_path(head), int(size)
    return user_path(text), _SIZE


class FolderImages:
    """Positions in one list of image files, which subsets share; pictures are decoded when asked for."""

    def __init__(
        self,
        files: Sequence[str],
        labels: Tensor,
        positions: Tensor | None,
        info: DataInfo,
        device: torch.device,
        deep_white: float = WHITE_16_BIT,
    ) -> None:
        """
        Args:
            positions: into `files` and `labels`; None takes all.
            deep_white: what is white in pictures of 32 bits.
        """
        self._files, self._all_labels, self._deep_white = files, labels, deep_white
        self._positions = torch.arange(len(files)) if positions is None else positions
        self._info, self._device = info, device

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def labels(self) -> Tensor:
        return self._all_labels[self._positions]

    def subset(self, indices: Tensor) -> FolderImages:
        positions = self._positions[indices]
        return FolderImages(self._files, self._all_labels, positions, self._info, self._device, self._deep_white)

    def batches(
        self, batch_size: int, *, seed: int | None = None, augment: bool = False, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(0 if seed is None else seed)
        count = len(self)
        order = torch.arange(count) if seed is None else torch.randperm(count, generator=generator)
        # One seed per image: what is drawn for it does not depend on which process decodes it.
        seeds = torch.randint(2**62, (count,), generator=generator).tolist() if augment else [None] * count
        loader: DataLoader[Any] = DataLoader(
            _Decoded(self._files, self._info, self._deep_white),
            batch_size=batch_size,
            sampler=list(zip(self._positions[order].tolist(), seeds, strict=True)),
            num_workers=min(_MOST_PROCESSES, torch.get_num_threads(), math.ceil(count / batch_size)),
            collate_fn=_collated,
            drop_last=drop_last and count >= batch_size,
            pin_memory=self._device.type == "cuda",
            generator=generator,
        )
        normalise = Normalise(self._info, self._device)
        for pixels, positions, problem in loader:
            if problem:
                raise UnreadablePictureError(problem)
            yield normalise(pixels.to(self._device, non_blocking=True)), self._all_labels[positions].to(self._device)


class _Decoded(Dataset[tuple[Tensor, int, str]]):
    """(position, seed) -> (H, W, 3) bytes or floats on their scale, the position, and what went wrong, if anything."""

    def __init__(self, files: Sequence[str], info: DataInfo, deep_white: float) -> None:
        self._files, self._info, self._deep_white = files, info, deep_white

    def __getitem__(self, item: tuple[int, int | None]) -> tuple[Tensor, int, str]:
        position, seed = item
        _, size, _ = self._info.shape
        try:
            with quiet_pillow():
                picture = decoded(self._files[position], self._deep_white)
        except UnreadablePictureError as error:  # an exception would arrive as a loader process's traceback
            return torch.zeros(size, size, 3, dtype=torch.uint8), position, str(error)
        picture = _middle(picture, size) if seed is None else _random_part(picture, size, seed, self._info.flip)
        pixels = torch.from_numpy(np.array(picture))
        return pixels if pixels.dim() == 3 else pixels[..., None].expand(-1, -1, 3), position, ""


def _collated(items: list[tuple[Tensor, int, str]]) -> tuple[Tensor, Tensor, str]:
    problem = next((text for _, _, text in items if text), "")
    pixels = [pixels for pixels, _, _ in items]
    if len({each.dtype for each in pixels}) > 1:  # bytes beside deeper grey levels
        pixels = [each.float() for each in pixels]
    return (
        torch.stack(pixels),
        torch.tensor([position for _, position, _ in items]),
        problem,
    )


def _middle(picture: Any, size: int) -> Any:
    """Resize the shorter side and cut out the middle, in one step."""
    from PIL import Image

    side = min(picture.size) / _SHORT_SIDE  # of the part, in the picture's own pixels
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    return picture.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))


def _random_part(picture: Any, size: int, seed: int, flip: bool) -> Any:
    """A part of random area and aspect; the whole picture's middle if ten draws do not fit into it."""
    from PIL import Image

    random = np.random.default_rng(seed)
    mirrored = flip and random.random() < 0.5
    side = min(picture.size)
    box = ((picture.width - side) / 2, (picture.height - side) / 2, (picture.width + side) / 2,
           (picture.height + side) / 2)  # fmt: skip
    for _ in range(10):
        area = picture.width * picture.height * random.uniform(*_AREA)
        aspect = math.exp(random.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < width <= picture.width and 0 < height <= picture.height:
            left = int(random.integers(0, picture.width - width + 1))
            top = int(random.integers(0, picture.height - height + 1))
            box = (left, top, left + width, top + height)
            break
    part = picture.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else part

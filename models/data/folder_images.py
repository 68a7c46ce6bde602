"""Images in folders, `imagefolder:DIR`, decoded by loader processes while a network computes.

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

from models.data.images import DataInfo, Images
from models.data.named_sets import NAMED_SETS
from models.data.picture_folders import class_names, read_folder
from models.data.pictures import WHITE_16_BIT, UnreadablePictureError, decode_picture, quiet_pillow
from models.paths import user_path

_SIZE = 224
_SHORT_SIDE = 256 / 224  # of the resized picture, relative to the part that is cut out of it
_AREA, _ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)  # of a random part, as usual for ImageNet
MOST_PROCESSES = 8


def describe_folder(name: str) -> DataInfo:
    """Shape and classes; ImageNet's mean and std."""
    root, size = _split_name(name)
    imagenet = NAMED_SETS["imagenet"]
    classes = class_names(root)
    shape, mean, std = (3, size, size), imagenet.mean, imagenet.std
    return DataInfo(name, shape, len(classes), mean, std, flip=True, crop=0, labels=tuple(classes))


def folder_identity(name: str) -> str:
    """A digest of the file names of both parts, relative to the folder, and of the size."""
    root, size = _split_name(name)
    digest = hashlib.sha256(str(size).encode())
    pictures = read_folder(root)
    for split in (pictures.train, pictures.test):
        for file, label in zip(split.files, split.labels, strict=True):
            digest.update(f"{file.relative_to(root)}:{label}\n".encode("utf-8", "surrogateescape"))
    return "imagefolder:" + digest.hexdigest()[:20]


def open_folder(name: str, info: DataInfo, device: torch.device) -> tuple[FolderImages, FolderImages]:
    """The training and the test images of a folder."""
    pictures = read_folder(_split_name(name)[0])
    white = pictures.deep_white
    train, test = (
        FolderImages(list(map(str, split.files)), torch.tensor(split.labels), info, device, white)
        for split in (pictures.train, pictures.test)
    )
    return train, test


def _split_name(name: str) -> tuple[Path, int]:
    """The directory and the image size of `imagefolder:DIR[@SIZE]`."""
    text = name.removeprefix("imagefolder:")
    head, at, size = text.rpartition("@")
    if at and size.isdigit() and int(size) > 0 and not Path(text).is_dir():
        return user_path(head), int(size)
    return user_path(text), _SIZE


class FolderImages(Images):
    """Pictures in a list of files, decoded when they are asked for."""

    def __init__(
        self,
        files: Sequence[str],
        labels: Tensor,
        info: DataInfo,
        device: torch.device,
        deep_white: float = WHITE_16_BIT,
    ) -> None:
        """
        Args:
            deep_white: what is white in pictures of 32 bits.
        """
        super().__init__(labels, info, device)
        self._files, self._deep_white = files, deep_white

    def _pixel_batches(
        self, positions: Tensor, count: int, batch_size: int, generator: torch.Generator, augment: bool
    ) -> Iterator[Tensor]:
        # One seed per image: what is drawn for it does not depend on which process decodes it.
        seeds: list[int | None] = [None] * len(positions)
        if augment:
            seeds = torch.randint(2**62, (len(positions),), generator=generator).tolist()
        loader: DataLoader[Any] = DataLoader(
            _DecodedPictures(self._files, self._info, self._deep_white),
            batch_size=batch_size,
            sampler=list(zip(positions.tolist(), seeds, strict=True))[:count],
            num_workers=min(MOST_PROCESSES, torch.get_num_threads(), math.ceil(count / batch_size)),
            collate_fn=_collate_pictures,
            pin_memory=self._device.type == "cuda",
            generator=generator,
        )
        for pixels, problem in loader:
            if problem:
                raise UnreadablePictureError(problem)
            yield pixels.to(self._device, non_blocking=True)


class _DecodedPictures(Dataset[tuple[Tensor, str]]):
    """(position, seed) -> (H, W, 3) bytes or floats on their scale, and what went wrong, if anything."""

    def __init__(self, files: Sequence[str], info: DataInfo, deep_white: float) -> None:
        self._files, self._info, self._deep_white = files, info, deep_white

    def __getitem__(self, item: tuple[int, int | None]) -> tuple[Tensor, str]:
        position, seed = item
        _, size, _ = self._info.shape
        try:
            with quiet_pillow():
                picture = decode_picture(self._files[position], self._deep_white)
        except UnreadablePictureError as error:  # an exception would arrive as a loader process's traceback
            return torch.zeros(size, size, 3, dtype=torch.uint8), str(error)
        picture = _cut_middle(picture, size) if seed is None else _cut_at_random(picture, size, seed, self._info.flip)
        pixels = torch.from_numpy(np.array(picture))
        return pixels if pixels.dim() == 3 else pixels[..., None].expand(-1, -1, 3), ""


def _collate_pictures(items: list[tuple[Tensor, str]]) -> tuple[Tensor, str]:
    """One batch of pixels, and the first problem in it."""
    pixels = [pixels for pixels, _ in items]
    if len({image.dtype for image in pixels}) > 1:  # bytes beside deeper grey levels
        pixels = [image.float() for image in pixels]
    return torch.stack(pixels), next((problem for _, problem in items if problem), "")


def _cut_middle(picture: Any, size: int) -> Any:
    """Resize the shorter side and cut out the middle, in one step."""
    from PIL import Image

    side = min(picture.size) / _SHORT_SIDE  # of the part, in the picture's own pixels
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    return picture.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))


def _cut_at_random(picture: Any, size: int, seed: int, flip: bool) -> Any:
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
    cut = picture.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else cut

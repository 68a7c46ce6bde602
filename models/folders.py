"""Images in folders, `imagefolder:DIR`, streamed through loader processes.

`DIR/train/CLASS/*` and `DIR/val/CLASS/*` (or `DIR/test`) are read as RGB. A training image is a random part of the
picture, resized to 224×224 and mirrored at random; a judged one is resized to 256 on its shorter side and cut in the
middle. `imagefolder:DIR@SIZE` asks for another size, with the same proportions.
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

from models.arrays import Normalise
from models.data import NAMED, DataInfo
from models.errors import UserError, first_line

_SIZE = 224
_SHORT_SIDE = 256 / 224  # of the resized picture, relative to the part that is cut out of it
_AREA, _ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)  # of a random part, as usual for ImageNet
_MOST_PROCESSES = 8
_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def folder_info(name: str) -> DataInfo:
    """Shape and classes; ImageNet's mean and std."""
    root, size = _split(name)
    imagenet = NAMED["imagenet"]
    classes = _class_names(root / "train")
    return DataInfo(name, (3, size, size), len(classes), imagenet.mean, imagenet.std, flip=True, crop=0)


def folder_identity(name: str) -> str:
    """A digest of the file names of both parts, relative to the folder, and of the size."""
    root, size = _split(name)
    digest = hashlib.sha256(str(size).encode())
    for part in (root / "train", _test_folder(root)):
        for file, label in _listed(part):
            digest.update(f"{file.relative_to(root)}:{label}\n".encode())
    return "imagefolder:" + digest.hexdigest()[:20]


def open_folders(name: str, info: DataInfo, device: torch.device) -> tuple[FolderImages, FolderImages]:
    """The training and the test part; UserError if their classes differ."""
    root, _ = _split(name)
    test = _test_folder(root)
    if differing := set(_class_names(root / "train")) ^ set(_class_names(test)):
        raise UserError(f"{root / 'train'} and {test} differ in their classes, first in {min(differing)!r}")
    opened = []
    for part in (root / "train", test):
        files = _listed(part)
        if not files:
            raise UserError(f"no images under {part}; it must hold one folder of images per class")
        labels = torch.tensor([label for _, label in files])
        paths = [str(file) for file, _ in files]
        opened.append(FolderImages(paths, labels, torch.arange(len(paths)), info, device))
    return opened[0], opened[1]


def _split(name: str) -> tuple[Path, int]:
    """The directory and the image size of `imagefolder:DIR[@SIZE]`."""
    text = name.removeprefix("imagefolder:")
    head, at, size = text.rpartition("@")
    if at and size.isdigit() and int(size) > 0 and not Path(text).is_dir():
        return Path(head).expanduser(), int(size)
    return Path(text).expanduser(), _SIZE


def _test_folder(root: Path) -> Path:
    return root / "val" if (root / "val").is_dir() or not (root / "test").is_dir() else root / "test"


def _class_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; imagefolder:DIR needs DIR/train and DIR/val (or DIR/test)")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if len(names) < 2:
        raise UserError(f"{folder} holds {len(names)} class folders; there must be at least two")
    return names


def _listed(folder: Path) -> list[tuple[Path, int]]:
    """Every image with its class number, in the order of their names."""
    return [
        (file, label)
        for label, name in enumerate(_class_names(folder))
        for file in sorted((folder / name).rglob("*"))
        if file.suffix.lower() in _SUFFIXES
    ]


class FolderImages:
    """Positions in one list of image files, which subsets share; pictures are decoded when asked for."""

    def __init__(
        self, files: Sequence[str], labels: Tensor, positions: Tensor, info: DataInfo, device: torch.device
    ) -> None:
        self._files, self._all_labels, self._positions = files, labels, positions
        self._info, self._device = info, device

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def labels(self) -> Tensor:
        return self._all_labels[self._positions]

    def subset(self, indices: Tensor) -> FolderImages:
        return FolderImages(self._files, self._all_labels, self._positions[indices], self._info, self._device)

    def batches(
        self, batch_size: int, *, seed: int | None = None, augment: bool = False, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(0 if seed is None else seed)
        count = len(self)
        order = torch.arange(count) if seed is None else torch.randperm(count, generator=generator)
        # One seed per image: what is drawn for it does not depend on which process decodes it.
        seeds = torch.randint(2**62, (count,), generator=generator).tolist() if augment else [None] * count
        loader: DataLoader[Any] = DataLoader(
            _Decoded(self._files, self._info),
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
                raise UserError(problem)
            yield normalise(pixels.to(self._device, non_blocking=True)), self._all_labels[positions].to(self._device)


class _Decoded(Dataset[tuple[Tensor, int, str]]):
    """(position, seed) -> (H, W, 3) bytes, the position, and what went wrong, if anything."""

    def __init__(self, files: Sequence[str], info: DataInfo) -> None:
        self._files, self._info = files, info

    def __getitem__(self, item: tuple[int, int | None]) -> tuple[Tensor, int, str]:
        from PIL import Image

        position, seed = item
        _, size, _ = self._info.shape
        try:
            with Image.open(self._files[position]) as opened:
                picture = opened.convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:  # PIL's errors for damaged files
            # An exception would arrive as a loader process's traceback.
            problem = f"image {self._files[position]} cannot be read: {first_line(error)}"
            return torch.zeros(size, size, 3, dtype=torch.uint8), position, problem
        picture = _middle(picture, size) if seed is None else _random_part(picture, size, seed, self._info.flip)
        return torch.from_numpy(np.array(picture)), position, ""


def _collated(items: list[tuple[Tensor, int, str]]) -> tuple[Tensor, Tensor, str]:
    problem = next((text for _, _, text in items if text), "")
    return (
        torch.stack([pixels for pixels, _, _ in items]),
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

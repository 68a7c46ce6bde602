"""Pictures of every mode and shape: deep grey levels keep their depth, others are what Pillow makes of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_sets import RANDOM, SIZE, first_test_image, read, write_pictures
from PIL import Image
from torch import Tensor

from models.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pictures(tmp_path)


def grey_of(folder: Path, save: Callable[[Path], object], suffix: str) -> Tensor:
    """The first test picture, all of whose channels must be alike."""
    (folder / "val/cat/0.png").unlink()
    save(folder / f"val/cat/0{suffix}")
    image = first_test_image(folder)
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])
    return image[0]


DEEP = RANDOM.integers(0, 65536, (28, 28)).astype(np.uint16)
UNIT = (DEEP / 65535).astype(np.float32)


@pytest.mark.parametrize(
    ("pixels", "suffix"),
    [(DEEP, ".png"), (DEEP, ".tif"), (DEEP // 16, ".png"), (DEEP.astype(np.int32), ".tif"), (UNIT, ".tiff"),
     (UNIT * 255, ".tif"), (DEEP.astype(np.float32), ".tif")],
    ids=["png", "tif", "dark", "int32", "unit", "float bytes", "float 16"],
)  # fmt: skip
def test_deep_pictures_are_grey_levels(folder: Path, pixels: np.ndarray, suffix: str) -> None:
    """As Pillow resizes the same levels as floats, on the scale from 0 to 1."""
    image = grey_of(folder, lambda file: Image.fromarray(pixels).save(file), suffix)
    white = 65535 if pixels.max() > 255 else 255 if pixels.max() > 1 else 1
    levels = Image.fromarray((pixels.astype(np.float64) / white).astype(np.float32))
    side = 28 * 224 / 256
    box = (14 - side / 2, 14 - side / 2, 14 + side / 2, 14 + side / 2)
    expected = np.array(levels.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box))
    np.testing.assert_allclose(image.numpy(), expected, atol=1e-5)  # 8 bits would be off by up to 2e-3
    assert any("grey levels of" in notice for notice in read(folder)[1])


def test_bytes_and_deep_pictures_go_together(folder: Path) -> None:
    Image.fromarray(np.full((20, 20), 1000, np.uint16)).save(folder / "val/cat/0.png")
    plain, deep = read(folder)[0].test.batches(1), read(folder)[0].test.batches(6)
    together = next(deep)[0]
    torch.testing.assert_close(together[0], torch.full_like(together[0], 1000 / 65535))
    for i, (alone, _) in enumerate(plain):
        torch.testing.assert_close(alone[0], together[i])


def test_deep_pictures_on_no_scale_are_refused(folder: Path) -> None:
    Image.fromarray(UNIT * 4000 - 1000).save(folder / "val/cat/x.tif")
    with pytest.raises(UserError, match=r"hold values from -9.* on no scale of pictures; give them as arrays"):
        read(folder)


MODES = {
    ".png": ["1", "L", "LA", "P", "RGBA", "palette with alpha"],
    ".tif": ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"],
    ".gif": ["1", "L", "P", "palette with alpha"],
    ".jpg": ["L", "CMYK", "YCbCr"],
}


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix, modes in MODES.items() for mode in modes])
def test_other_modes_are_what_pillow_makes_of_them(folder: Path, mode: str, suffix: str) -> None:
    picture = Image.open(folder / "val/cat/0.png").convert("RGBA")
    picture.putalpha(Image.fromarray(RANDOM.integers(0, 256, (20, 18), dtype=np.uint8)))
    picture = picture.quantize(16) if mode == "palette with alpha" else picture.convert(mode)
    picture.save(folder / f"val/cat/0{suffix}")
    if suffix != ".png":
        (folder / "val/cat/0.png").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.open(folder / f"val/cat/0{suffix}").convert("RGB").save(folder / "val/cat/1.bmp")
    (folder / "val/cat/1.png").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = next(read(folder)[0].test.batches(2))[0]
    assert torch.equal(images[0], images[1])


def test_the_first_frame_of_an_animation_counts(folder: Path) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(folder / "val/cat/.0.gif", save_all=True, append_images=frames[1:])
    (folder / "val/cat/0.png").unlink()
    (folder / "val/cat/.0.gif").rename(folder / "val/cat/0.gif")
    assert first_test_image(folder)[:, 0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (2, 2)])
def test_pictures_of_odd_shapes(folder: Path, shape: tuple[int, int]) -> None:
    for place in ("train/cat/0.png", "val/cat/0.png"):
        Image.new("RGB", shape, (255, 0, 0)).save(folder / place)
    data, _ = read(folder)
    image = next(data.test.batches(1))[0][0]
    assert (image == torch.tensor([1.0, 0, 0])[:, None, None]).all()
    for seed in range(3):
        assert all(torch.isfinite(x).all() for x, _ in data.train.batches(4, seed=seed, augment=True))


def test_orientation_in_exif_is_not_applied(folder: Path) -> None:
    """As torchvision's ImageFolder."""
    picture = Image.open(folder / "val/cat/0.png")
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(folder / "val/cat/1.png", exif=exif)
    images = next(read(folder)[0].test.batches(2))[0]
    assert torch.equal(images[0], images[1])

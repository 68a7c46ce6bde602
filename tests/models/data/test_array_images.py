"""Random crops and flips of images in memory, against torchvision's own and against exact probabilities."""

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF

from models.data.array_images import ArrayImages, shifted_and_mirrored
from models.data.images import DataInfo


@pytest.mark.parametrize(
    ("height", "width", "channels", "pad"), [(6, 5, 3, 2), (8, 8, 1, 1), (5, 7, 2, 3), (4, 4, 3, 0)]
)
def test_augmentation_is_torchvisions_crop_and_flip(height: int, width: int, channels: int, pad: int) -> None:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (20, height, width, channels), dtype=torch.uint8, generator=generator)
    shifts = torch.randint(0, 2 * pad + 1, (2, 20), generator=generator)
    mirrored = torch.rand(20, generator=generator) < 0.5
    result = shifted_and_mirrored(pixels, shifts, mirrored, pad)
    for i in range(20):
        picture = TF.pad(pixels[i].permute(2, 0, 1), [pad] * 4)
        picture = TF.crop(picture, int(shifts[0, i]), int(shifts[1, i]), height, width)
        picture = TF.hflip(picture) if mirrored[i] else picture
        assert torch.equal(result[i].permute(2, 0, 1), picture)


def test_augmentation_draws_every_shift_and_both_sides() -> None:
    """One bright pixel in the middle of a dark image visits all 5 × 5 places; mirrored at 2 · 2 + 1, too."""
    pixels = torch.zeros(1, 5, 5, 1, dtype=torch.uint8)
    pixels[0, 2, 1] = 255
    info = DataInfo("dot", (1, 5, 5), 2, (0.0,), (1.0,), flip=True, crop=2)
    images = ArrayImages(pixels, torch.zeros(1, dtype=torch.int64), info, torch.device("cpu"))
    images = images.subset(torch.zeros(2000, dtype=torch.int64))
    (x, _) = next(images.batches(2000, seed=0, augment=True))
    seen = x.sum(0)[0]
    # The row is uniform on 5 places. The column is 1 or 3 with equal chance, shifted by -2 to 2, lost beyond the edge.
    columns = np.array([[1 + d, 3 - d] for d in range(-2, 3)]).ravel()
    expected = np.array([(columns == c).mean() for c in range(5)]) * 2000 / 5
    np.testing.assert_allclose(seen.numpy(), np.tile(expected, (5, 1)), atol=5 * np.sqrt(2000 * 0.04))
    plain = next(images.batches(2000, seed=0))[0]
    assert plain.sum(0)[0, 2, 1] == 2000


@pytest.fixture
def images() -> ArrayImages:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (37, 6, 5, 3), dtype=torch.uint8, generator=generator)
    info = DataInfo("noise", (3, 6, 5), 4, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), flip=True, crop=2)
    return ArrayImages.on_device(pixels, torch.arange(37) % 4, info, torch.device("cpu"))


def test_same_seed_same_crops_and_flips(images: ArrayImages) -> None:
    first, again, other = ([x for x, _ in images.batches(16, seed=seed, augment=True)] for seed in (1, 1, 2))
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))


def test_batch_size_does_not_change_augmentation(images: ArrayImages) -> None:
    small, large = (torch.cat([x for x, _ in images.batches(size, seed=1, augment=True)]) for size in (5, 37))
    assert torch.equal(small, large)


def test_a_batch_that_is_left_out_does_not_change_the_others(images: ArrayImages) -> None:
    full, shorter = (list(images.batches(16, seed=1, augment=True, drop_last=drop_last)) for drop_last in (False, True))
    assert (len(full), len(shorter)) == (3, 2)
    assert all(torch.equal(full[i][0], shorter[i][0]) for i in range(2))

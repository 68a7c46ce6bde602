"""Splits, statistics and batches, against plain loops and torchvision's own transforms."""

from fractions import Fraction

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.arrays import ArrayImages, Normalise, shifted_and_mirrored
from models.data.base import NAMED, DataInfo, data_info, load_data, stratified_sample, stratified_split
from models.errors import UserError
from models.task import TaskConfig

CPU = torch.device("cpu")
INFO = DataInfo("test", (3, 6, 5), 4, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), flip=True, crop=2)


def _images(count: int = 37, info: DataInfo = INFO) -> ArrayImages:
    generator = torch.Generator().manual_seed(0)
    channels, height, width = info.shape
    pixels = torch.randint(0, 256, (count, height, width, channels), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, info.classes, (count,), generator=generator)
    return ArrayImages.place(pixels, labels, info, CPU)


def _largest_remainder(sizes: list[int], count: int) -> list[int]:
    """Hamilton's method in exact fractions."""
    exact = [Fraction(size * count, sum(sizes)) for size in sizes]
    quota = [int(share) for share in exact]
    order = sorted(range(len(sizes)), key=lambda i: (-(exact[i] - quota[i]), i))
    for i in order[: count - sum(quota)]:
        quota[i] += 1
    return quota


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.floats(0.01, 0.99), st.integers(0, 5))
def test_split_shares_exactly(sizes: list[int], fraction: float, seed: int) -> None:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    rest, held = stratified_split(labels, fraction, seed)
    assert sorted(torch.cat([rest, held]).tolist()) == list(range(len(labels)))
    assert torch.bincount(labels[held], minlength=len(sizes)).tolist() == _largest_remainder(
        sizes, round(fraction * len(labels))
    )


def test_split_follows_its_seed() -> None:
    labels = torch.arange(10).repeat(50)
    one, again, other = (stratified_split(labels, 0.2, seed)[1] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_sample_of_everything_is_everything() -> None:
    labels = torch.tensor([0, 2, 2, 1])
    assert stratified_sample(labels, 4, 0).tolist() == [0, 1, 2, 3]
    assert stratified_sample(labels, 0, 0).tolist() == []


def test_batches_in_order_are_normalised_pixels() -> None:
    images = _images()
    batches = list(images.batches(8))
    assert [len(labels) for _, labels in batches] == [8, 8, 8, 8, 5]
    assert torch.equal(torch.cat([labels for _, labels in batches]), images.labels)
    x = torch.cat([inputs for inputs, _ in batches])
    pixels = np.asarray(images._images, dtype=np.float64)
    expected = (pixels / 255 - np.array(INFO.mean)) / np.array(INFO.std)
    np.testing.assert_allclose(x.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)
    assert x.dtype == torch.float32
    assert batches[0][0].is_contiguous(memory_format=torch.channels_last)
    assert batches[0][1].dtype == torch.int64


def test_shuffled_is_a_permutation() -> None:
    images = _images()
    rows = [tuple(row) for x, _ in images.batches(8, seed=3) for row in x.flatten(1).tolist()]
    in_order = [tuple(row) for x, _ in images.batches(8) for row in x.flatten(1).tolist()]
    assert rows != in_order
    assert sorted(rows) == sorted(in_order)


@pytest.mark.parametrize("augment", [False, True])
def test_same_seed_same_batches(augment: bool) -> None:
    images = _images()
    one, again, other = ([x for x, _ in images.batches(16, seed=seed, augment=augment)] for seed in (1, 1, 2))
    assert all(map(torch.equal, one, again))
    assert not all(map(torch.equal, one, other))


def test_batch_size_does_not_change_augmentation() -> None:
    images = _images()
    small, large = (torch.cat([x for x, _ in images.batches(n, seed=1, augment=True)]) for n in (5, 37))
    assert torch.equal(small, large)


@pytest.mark.parametrize(("count", "sizes"), [(37, [16, 16]), (32, [16, 16]), (9, [9])])
def test_drop_last(count: int, sizes: list[int]) -> None:
    assert [len(y) for _, y in _images(count).batches(16, seed=0, drop_last=True)] == sizes


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
    images = ArrayImages(pixels, torch.zeros(1, dtype=torch.int64), torch.zeros(2000, dtype=torch.int64), info, CPU)
    (x, _) = next(images.batches(2000, seed=0, augment=True))
    seen = x.sum(0)[0]
    # The row is uniform on 5 places. The column is 1 or 3 with equal chance, shifted by -2 to 2, lost beyond the edge.
    columns = np.array([[1 + d, 3 - d] for d in range(-2, 3)]).ravel()
    expected = np.array([(columns == c).mean() for c in range(5)]) * 2000 / 5
    np.testing.assert_allclose(seen.numpy(), np.tile(expected, (5, 1)), atol=5 * np.sqrt(2000 * 0.04))
    plain = next(images.batches(2000, seed=0))[0]
    assert plain.sum(0)[0, 2, 1] == 2000


def test_subsets_share_the_pixels() -> None:
    images = _images()
    part = images.subset(torch.tensor([5, 3, 30])).subset(torch.tensor([2, 0]))
    assert len(part) == 2
    assert part.labels.tolist() == images.labels[[30, 5]].tolist()
    whole = torch.cat([x for x, _ in images.batches(37)])
    assert torch.equal(next(part.batches(9))[0], whole[[30, 5]])
    assert part._images.data_ptr() == images._images.data_ptr()


def test_normalise_constants() -> None:
    x = Normalise(INFO, CPU)(torch.full((1, 1, 1, 3), 255, dtype=torch.uint8)).flatten()
    torch.testing.assert_close(x, torch.tensor([0.5 / 0.2, 0.6 / 0.25, 0.7 / 0.3]))


def test_digits() -> None:
    from sklearn.datasets import load_digits

    data = load_data(TaskConfig(network="small"), CPU)
    assert data.info == data_info(TaskConfig(network="small")) == NAMED["digits"]
    x = torch.cat([x for part in (data.train, data.test) for x, _ in part.batches(999)])
    y = torch.cat([data.train.labels, data.test.labels])
    assert len(data.test) == 359  # a fifth of 1,797
    assert torch.bincount(y).tolist() == np.bincount(load_digits().target).tolist()
    raw = x * NAMED["digits"].std[0] + NAMED["digits"].mean[0]
    assert raw.sum().item() == pytest.approx(load_digits().images.sum() / 16, rel=2e-3)
    train = torch.cat([x for x, _ in data.train.batches(999)])
    assert (train.mean().item(), train.std().item()) == pytest.approx((0, 1), abs=1e-3)


@pytest.mark.parametrize("name", NAMED)
def test_named_info_reads_no_files(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("images were read")

    monkeypatch.setattr("models.data.array_sources.read_arrays", refuse)
    info = data_info(TaskConfig(network="small", data=name, data_root="/nowhere"))
    assert len(info.mean) == len(info.std) == info.shape[0]


def test_what_the_task_overrides() -> None:
    config = TaskConfig(network="small", data="cifar10", mean=(0.1, 0.2, 0.3), std=(1, 2, 3), flip=False, crop=0)
    info = data_info(config)
    assert (info.mean, info.std, info.flip, info.crop) == ((0.1, 0.2, 0.3), (1, 2, 3), False, 0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("mean", (0.5,), r"mean \(0.5,\) has 1 values but the images have 3 channels"),
        ("std", (0.5, 0.5), r"std .* has 2 values"),
        ("std", (0.5, 0.0, 0.5), r"std .* must be positive"),
        ("crop", 32, "crop 32 leaves nothing of images of 32×32"),
    ],
)
def test_wrong_overrides(field: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        data_info(TaskConfig.model_validate({"network": "small", "data": "cifar10", field: value}))


def test_imagenet_is_for_planning() -> None:
    config = TaskConfig(network="resnet50", data="imagenet")
    assert (data_info(config).shape, data_info(config).classes) == ((3, 224, 224), 1000)
    with pytest.raises(UserError, match="imagefolder:DIR"):
        load_data(config, CPU)


@pytest.mark.parametrize("name", ["cifar11", "npz", ""])
def test_unknown_data(name: str) -> None:
    with pytest.raises(UserError, match="unknown data"):
        load_data(TaskConfig(network="small", data=name), CPU)

"""Batches of images in memory and in files: against plain loops, and the same from both."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from models.data.array_images import ArrayImages
from models.data.folder_images import FolderImages
from models.data.images import DataInfo, Images, Normalise

CPU = torch.device("cpu")
INFO = DataInfo("test", (3, 6, 6), 4, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), flip=True, crop=0)
COLOURS = np.random.default_rng(0).integers(0, 256, (37, 3), dtype=np.uint8)
LABELS = torch.arange(37) % 4

MakeImages = Callable[[int], Images]


def in_memory(count: int) -> ArrayImages:
    pixels = torch.from_numpy(COLOURS[:count])[:, None, None].expand(-1, 6, 6, -1)
    return ArrayImages.on_device(pixels, LABELS[:count], INFO, CPU)


@pytest.fixture
def in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeImages:
    """Pictures of one colour each, of which any part is the same."""
    monkeypatch.setattr("models.data.folder_images.MOST_PROCESSES", 0)
    files = [str(tmp_path / f"{i}.png") for i in range(len(COLOURS))]
    for file, colour in zip(files, COLOURS.tolist(), strict=True):
        Image.new("RGB", (9, 8), tuple(colour)).save(file)
    return lambda count: FolderImages(files[:count], LABELS[:count], INFO, CPU)


@pytest.fixture(params=["memory", "files"])
def make_images(request: pytest.FixtureRequest) -> MakeImages:
    return in_memory if request.param == "memory" else request.getfixturevalue("in_files")


def joined(images: Images, batch_size: int = 37, **options: bool | int) -> tuple[Tensor, Tensor]:
    batches = list(images.batches(batch_size, **options))  # type: ignore[arg-type]
    return torch.cat([inputs for inputs, _ in batches]), torch.cat([labels for _, labels in batches])


def test_batches_in_order_are_normalised_pixels(make_images: MakeImages) -> None:
    batches = list(make_images(37).batches(8))
    assert [len(labels) for _, labels in batches] == [8, 8, 8, 8, 5]
    assert torch.equal(torch.cat([labels for _, labels in batches]), LABELS)
    expected = (COLOURS.astype(np.float64) / 255 - np.array(INFO.mean)) / np.array(INFO.std)
    inputs = torch.cat([inputs for inputs, _ in batches]).numpy()
    np.testing.assert_allclose(inputs, np.tile(expected[:, :, None, None], (1, 1, 6, 6)), atol=1e-5)
    assert inputs.dtype == np.float32
    assert batches[0][0].is_contiguous(memory_format=torch.channels_last)
    assert batches[0][1].dtype == torch.int64


@pytest.mark.parametrize(("seed", "augment"), [(None, False), (None, True), (3, False), (3, True)])
@pytest.mark.parametrize(("batch_size", "drop_last"), [(8, False), (8, True), (37, True), (50, True)])
def test_the_same_pixels_in_memory_and_in_files_come_in_the_same_batches(
    in_files: MakeImages, seed: int | None, augment: bool, batch_size: int, drop_last: bool
) -> None:
    options = {"seed": seed, "augment": augment, "drop_last": drop_last}
    indices = torch.randperm(37, generator=torch.Generator().manual_seed(1))[:30]
    for memory, files in ((in_memory(37), in_files(37)), (in_memory(37).subset(indices), in_files(37).subset(indices))):
        batches = zip(memory.batches(batch_size, **options), files.batches(batch_size, **options), strict=True)
        for (inputs, labels), (file_inputs, file_labels) in batches:
            assert torch.equal(inputs, file_inputs)
            assert inputs.stride() == file_inputs.stride()
            assert torch.equal(labels, file_labels)


def test_shuffled_is_a_permutation(make_images: MakeImages) -> None:
    images = make_images(37)
    (shuffled, labels), (in_order, _) = joined(images, 8, seed=3), joined(images, 8)
    order = [int((in_order == image).flatten(1).all(1).nonzero()) for image in shuffled]
    assert order != sorted(order)
    assert sorted(order) == list(range(37))
    assert torch.equal(labels, LABELS[order])


def test_same_seed_same_batches(make_images: MakeImages) -> None:
    images = make_images(37)
    first, again, other = (joined(images, 16, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("count", "sizes"), [(37, [16, 16]), (32, [16, 16]), (9, [9])])
def test_drop_last(make_images: MakeImages, count: int, sizes: list[int]) -> None:
    images = make_images(count)
    assert [len(labels) for _, labels in images.batches(16, seed=0, drop_last=True)] == sizes
    kept, every = joined(images, 16, seed=0, drop_last=True)[0], joined(images, 16, seed=0)[0]
    assert torch.equal(kept, every[: sum(sizes)])


def test_no_images_no_batches(make_images: MakeImages) -> None:
    assert list(make_images(37).subset(torch.arange(0)).batches(4, seed=1, augment=True)) == []


def test_subsets_of_subsets(make_images: MakeImages) -> None:
    images = make_images(37)
    part = images.subset(torch.tensor([5, 3, 30])).subset(torch.tensor([2, 0]))
    assert (len(part), len(images)) == (2, 37)
    assert part.labels.tolist() == LABELS[[30, 5]].tolist()
    assert torch.equal(joined(part)[0], joined(images)[0][[30, 5]])


def test_subsets_share_the_pixels() -> None:
    pixels = torch.zeros(4, 6, 6, 3, dtype=torch.uint8)
    part = ArrayImages.on_device(pixels, LABELS[:4], INFO, CPU).subset(torch.tensor([2]))
    before = joined(part)[0]
    pixels[2] = 255
    assert (joined(part)[0] > before).all()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_batches_come_in_the_order_asked_for(
    make_images: MakeImages, memory_format: torch.memory_format, batch_size: int
) -> None:
    plain = make_images(9)
    arranged = plain.in_memory_format(memory_format).subset(torch.arange(1, 9))
    assert arranged.labels.tolist() == LABELS[1:9].tolist()
    assert all(inputs.is_contiguous(memory_format=memory_format) for inputs, _ in arranged.batches(batch_size))
    assert torch.equal(joined(arranged)[0], joined(plain)[0][1:])


def test_normalise_constants() -> None:
    x = Normalise(INFO, CPU)(torch.full((1, 1, 1, 3), 255, dtype=torch.uint8)).flatten()
    torch.testing.assert_close(x, torch.tensor([0.5 / 0.2, 0.6 / 0.25, 0.7 / 0.3]))

"""Folders of pictures: layout, decoding, random parts, and every way in which a folder is wrong."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as TF

from models.data.catalog import Data, data_identity, data_info, load_data
from models.errors import UserError
from models.task_config import TaskConfig

CPU = torch.device("cpu")
COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of plain colour, 4 + 2 pictures each, of different sizes; one grey, one nested, one stray file."""
    for part, count in (("train", 4), ("val", 2)):
        for name, colour in COLOURS.items():
            (tmp_path / part / name / "more").mkdir(parents=True)
            for i in range(count):
                place = "more/" if i == 3 else ""
                Image.new("RGB", (40 + 9 * i, 30 + 5 * i), colour).save(tmp_path / part / name / f"{place}{i}.png")
    (tmp_path / "train" / "red" / "notes.txt").write_text("not a picture")
    return tmp_path


def _config(folder: Path, size: int | None = 16, **changes: object) -> TaskConfig:
    suffix = f"@{size}" if size else ""
    return TaskConfig.model_validate({"network": "resnet18", "data": f"imagefolder:{folder}{suffix}", **changes})


def _load(folder: Path) -> Data:
    return load_data(_config(folder, mean=(0, 0, 0), std=(1, 1, 1)), CPU)


def test_classes_and_sizes(folder: Path) -> None:
    assert data_info(_config(folder, None)).shape == (3, 224, 224)
    info = data_info(_config(folder, 48))
    assert (info.shape, info.classes, info.mean) == ((3, 48, 48), 3, (0.485, 0.456, 0.406))
    data = _load(folder)
    assert torch.bincount(data.train.labels).tolist() == [4, 4, 4]
    assert torch.bincount(data.test.labels).tolist() == [2, 2, 2]


@pytest.mark.parametrize("augment", [False, True])
def test_pictures_keep_their_labels(folder: Path, augment: bool) -> None:
    """A part of a plain picture is plain: blue, green, red are classes 0, 1, 2."""
    expected = torch.tensor(list(COLOURS.values())) / 255
    count = 0
    for x, y in _load(folder).train.batches(5, seed=1, augment=augment):
        assert x.dtype == torch.float32
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(x, expected[y][:, :, None, None].expand_as(x))
        count += len(y)
    assert count == 12


def test_judged_pictures_are_resized_and_cut_in_the_middle(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    pixels[:, :20] = 255  # beyond the middle part: must not be seen
    for part in ("train", "test"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / part / name / "x.png")
    x, _ = next(load_data(_config(tmp_path, 56, mean=(0, 0, 0), std=(1, 1, 1)), CPU).test.batches(1))
    # 64 on the shorter side is 56 · 8 / 7: nothing is resized, and the middle 56 × 56 pixels are left.
    middle = TF.to_tensor(TF.center_crop(Image.fromarray(pixels), [56, 56]))
    assert torch.allclose(x[0], middle, atol=1e-6)


def test_same_seed_same_parts_for_any_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(3):
                pixels = random.integers(0, 256, (20, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
    train = load_data(_config(tmp_path), CPU).train

    def drawn(seed: int, processes: int) -> torch.Tensor:
        monkeypatch.setattr("models.data.folder_images.MOST_PROCESSES", processes)
        return torch.cat([x for x, _ in train.batches(2, seed=seed, augment=True)])

    assert torch.equal(drawn(1, 0), drawn(1, 2))
    assert not torch.equal(drawn(1, 0), drawn(2, 0))


def test_global_random_state_is_left_alone(folder: Path) -> None:
    train = _load(folder).train
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for _ in train.batches(4, seed=1, augment=True):
        pass
    assert torch.equal(torch.get_rng_state(), before)


def test_subset_and_drop_last(folder: Path) -> None:
    train = _load(folder).train.subset(torch.tensor([11, 0, 5]))
    assert train.labels.tolist() == [2, 0, 1]
    assert [y.tolist() for _, y in train.batches(2)] == [[2, 0], [1]]
    assert [len(y) for _, y in train.batches(2, drop_last=True)] == [2]
    assert [len(y) for _, y in train.batches(8, drop_last=True)] == [3]


def test_test_folder_where_there_is_no_val(folder: Path) -> None:
    (folder / "val").rename(folder / "test")
    assert len(_load(folder).test) == 6


def test_identity_is_of_names_not_places(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    moved = tmp_path_factory.mktemp("elsewhere") / "moved"
    before, other_size = data_identity(_config(folder)), data_identity(_config(folder, 32))
    folder.rename(moved)
    assert data_identity(_config(moved)) == before != other_size
    (moved / "train" / "red" / "0.png").unlink()
    assert data_identity(_config(moved)) != before


def test_damaged_picture_is_named(folder: Path) -> None:
    data = _load(folder)
    (folder / "val" / "red" / "0.png").write_bytes(b"\x89PNG broken")  # after it was checked
    with pytest.raises(UserError, match=r"val/red/0\.png cannot be read") as caught:
        list(data.test.batches(4))
    assert "\n" not in str(caught.value)


def test_wrong_layouts(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no folder /nowhere/train; imagefolder:DIR needs DIR/train and DIR/val"):
        data_info(_config(Path("/nowhere")))
    (folder / "val" / "blue").rename(folder / "val" / "cyan")
    with pytest.raises(UserError, match="differ in their classes: cyan is in val alone"):
        _load(folder)
    (folder / "val").rename(folder / "other")
    with pytest.raises(UserError, match=r"there is no folder .*/val"):
        _load(folder)
    for name in ("red", "green"):
        (folder / "train" / name).rename(folder / name)
    with pytest.raises(UserError, match="holds 1 class folders; there must be at least two"):
        data_info(_config(folder))


def test_no_pictures(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
    with pytest.raises(UserError, match="no images under"):
        _load(tmp_path)


def test_a_crop_is_refused_where_it_would_do_nothing(folder: Path) -> None:
    with pytest.raises(UserError, match="crop 4 does not go with imagefolder"):
        data_info(_config(folder, crop=4))

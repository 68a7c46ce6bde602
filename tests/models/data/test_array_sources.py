"""Arrays from npz files, users' functions and torchvision's own formats, and every way in which they are wrong."""

import gzip
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets

from models.data.array_checks import check_arrays
from models.data.array_sources import read_arrays
from models.data.catalog import data_identity, data_info
from models.errors import UserError
from models.task_config import TaskConfig

RANDOM = np.random.default_rng(0)


def _arrays(shape: tuple[int, ...] = (3, 8, 6), train: int = 20, test: int = 8) -> dict[str, Any]:
    return {
        "x_train": RANDOM.integers(0, 256, (train, *shape), dtype=np.uint8),
        "y_train": np.arange(train) % 4,
        "x_test": RANDOM.integers(0, 256, (test, *shape), dtype=np.uint8),
        "y_test": np.arange(test, dtype=np.int32) % 4,
    }


def _config(path: Path, **changes: Any) -> TaskConfig:
    return TaskConfig(network="small", data=f"npz:{path}", **changes)


@pytest.fixture
def npz(tmp_path: Path) -> Callable[..., TaskConfig]:
    """Writes arrays, some replaced or (None) left out, and hands back a task that names them."""

    def write(**changes: Any) -> TaskConfig:
        content = {name: array for name, array in {**_arrays(), **changes}.items() if array is not None}
        np.savez(tmp_path / "data.npz", **content)
        return _config(tmp_path / "data.npz")

    return write


@pytest.mark.parametrize(
    ("shape", "to_nhwc", "expected"),
    [
        ((3, 8, 6), (0, 2, 3, 1), (3, 8, 6)),
        ((8, 6, 3), (0, 1, 2, 3), (3, 8, 6)),
        ((1, 8, 6), (0, 2, 3, 1), (1, 8, 6)),
        ((8, 6, 1), (0, 1, 2, 3), (1, 8, 6)),
        ((4, 8, 8), (0, 2, 3, 1), (4, 8, 8)),
        ((8, 8, 4), (0, 1, 2, 3), (4, 8, 8)),
        ((16, 8, 8), (0, 2, 3, 1), (16, 8, 8)),
        ((3, 3, 3), (0, 2, 3, 1), (3, 3, 3)),
    ],
)
def test_layouts(tmp_path: Path, shape: tuple[int, ...], to_nhwc: tuple[int, ...], expected: tuple[int, ...]) -> None:
    content = _arrays(shape)
    np.savez(tmp_path / "data.npz", **content)
    read = read_arrays(_config(tmp_path / "data.npz"))
    assert np.array_equal(read.x_train.numpy(), content["x_train"].transpose(to_nhwc))
    assert np.array_equal(read.y_test.numpy(), content["y_test"])
    assert read.y_test.dtype == torch.int64
    assert data_info(_config(tmp_path / "data.npz")).shape == expected


def test_grey_without_channels(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "data.npz", **_arrays((9, 7)))
    info = data_info(_config(tmp_path / "data.npz"))
    assert (info.shape, info.classes, info.flip, info.crop) == ((1, 9, 7), 4, False, 1)


def test_statistics_are_those_of_the_training_images(tmp_path: Path) -> None:
    content = _arrays((3, 8, 6), train=5000)
    content["x_train"][:, 1] = 51  # a constant channel: mean 0.2, and a std that must not divide by zero
    np.savez(tmp_path / "data.npz", **content)
    info = data_info(_config(tmp_path / "data.npz"))
    scaled = content["x_train"].astype(np.float64) / 255
    assert info.mean == pytest.approx(scaled.mean((0, 2, 3)), abs=1e-5)
    assert (info.std[0], info.std[2]) == pytest.approx(scaled.std((0, 2, 3))[[0, 2]], abs=1e-5)
    assert info.std[1] == 1


def test_colour_is_mirrored_and_shifted_by_an_eighth(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **_arrays((3, 32, 32)))
    info = data_info(_config(tmp_path / "data.npz"))
    assert (info.flip, info.crop) == (True, 4)


def test_labels_may_be_a_column(npz: Callable[..., TaskConfig]) -> None:
    config = npz(y_train=(np.arange(20) % 4)[:, None])
    assert read_arrays(config).y_train.tolist() == [i % 4 for i in range(20)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "lacks y_test; it holds x_train, y_train, x_test"),
        ({"x_train": np.zeros((20, 3, 8, 6), np.complex64)}, "x_train of .* has type complex64; images must be whole"),
        ({"x_test": np.zeros((8, 3, 8, 6, 1), np.uint8)}, r"x_test of .* has shape \(8, 3, 8, 6, 1\)"),
        ({"x_test": np.zeros((8, 3, 0, 6), np.uint8)}, r"x_test of .* has shape \(8, 3, 0, 6\)"),
        ({"x_test": np.zeros((8, 3, 8, 8), np.uint8)}, r"differ in shape: \(8, 6, 3\) for training, \(8, 8, 3\)"),
        ({"y_train": np.arange(19) % 4}, "x_train of .* holds 20 images but y_train 19 labels"),
        ({"y_train": np.arange(20) % 4 * 1.5}, "y_train of .* holds 1.5 at position 1; labels must be whole numbers"),
        ({"y_train": np.eye(4, dtype=np.int64)[np.arange(20) % 4]}, r"y_train of .* is one-hot, of shape \(20, 4\)"),
        ({"y_train": np.full((20, 4), 0.25)}, r"y_train of .* has shape \(20, 4\); labels must be of shape \(N,\)"),
        ({"y_train": np.zeros(20, np.int64)}, "one class only"),
        ({"y_train": np.arange(20) * 1000}, "y_train of .* has another label for every one of its 20 images"),
        ({"x_test": np.zeros((0, 3, 8, 6), np.uint8), "y_test": np.zeros(0, np.int64)}, "x_test of .* is empty"),
        ({"y_train": np.array([{}] * 20)}, "holds Python objects, which are not loaded"),
    ],
)
def test_what_does_not_fit(npz: Callable[..., TaskConfig], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_arrays(npz(**changes))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file .*absent\.npz"):
        read_arrays(_config(tmp_path / "absent.npz"))
    (tmp_path / "text.npz").write_text("hello" * 50)
    np.save(tmp_path / "one.npy", np.zeros(3))
    np.savez(tmp_path / "whole.npz", **_arrays())
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:-300])
    for name, message in (
        ("text.npz", "text.npz is no npz file"),
        ("one.npy", "single array"),
        ("cut.npz", "cannot be read as an npz"),
    ):
        with pytest.raises(UserError, match=message):
            read_arrays(_config(tmp_path / name))
    for name, message in (("text.npz", "is no npz file"), ("cut.npz", "cannot be read as an npz")):
        with pytest.raises(UserError, match=message):
            data_identity(_config(tmp_path / name))


def test_damaged_content_is_noticed(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **_arrays())
    content = bytearray((tmp_path / "data.npz").read_bytes())
    content[1000] ^= 255  # in the pixels of x_train
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as an npz"):
        read_arrays(_config(tmp_path / "data.npz"))


def test_identity_is_of_the_content(tmp_path: Path) -> None:
    content = _arrays()
    np.savez(tmp_path / "a.npz", **content)
    np.savez_compressed(tmp_path / "b.npz", **content)
    content["x_train"][3, 0, 0, 0] ^= 1
    np.savez(tmp_path / "c.npz", **content)
    a, b, c = (data_identity(_config(tmp_path / f"{name}.npz")) for name in "abc")
    assert a == b != c


USERS = """
import numpy as np
import models
def data():
    x = np.full((12, 3, 4, 4), models.LEVEL, np.uint8)
    return x, [0, 1, 2] * 4, x[:6], np.array([0, 1, 2] * 2)
def three():
    return 1, 2, 3
def broken():
    return {}["x"]
"""


def test_users_function(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(USERS)
    (tmp_path / "models.py").write_text("LEVEL = 51\n")

    def config(function: str) -> TaskConfig:
        return TaskConfig(network="small", data=f"{tmp_path}/mine.py:{function}")

    assert read_arrays(config("data")).x_train.unique().tolist() == [51]
    assert (data_info(config("data")).shape, data_info(config("data")).classes) == ((3, 4, 4), 3)
    with pytest.raises(UserError, match="must return the four arrays x_train, y_train, x_test, y_test, not a tuple"):
        read_arrays(config("three"))
    with pytest.raises(UserError, match=r"failed: KeyError: 'x' \(line 10\)"):
        read_arrays(config("broken"))


def _idx(path: Path, array: np.ndarray) -> None:
    """The format of MNIST's files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_mnist_from_its_own_files(tmp_path: Path, name: str, folder: str) -> None:
    content = _arrays((28, 28))
    for part, stem in (("train", "train"), ("test", "t10k")):
        _idx(tmp_path / folder / "raw" / f"{stem}-images-idx3-ubyte", content[f"x_{part}"])
        _idx(tmp_path / folder / "raw" / f"{stem}-labels-idx1-ubyte", content[f"y_{part}"])
    read = read_arrays(TaskConfig(network="small", data=name, data_root=str(tmp_path)))
    assert np.array_equal(read.x_train[..., 0].numpy(), content["x_train"])
    assert np.array_equal(read.y_test.numpy(), content["y_test"])


class _FakeSet:
    """torchvision's manners: raises RuntimeError for missing files unless it may download."""

    present = False
    reason: Exception = OSError("<urlopen error no network>")

    def __init__(self, root: str, train: bool = True, split: str = "", download: bool = False) -> None:
        if not self.present and not download:
            raise RuntimeError("Dataset not found or corrupted. You can use download=True to download it")
        if not self.present:
            print("Downloading")
            raise self.reason
        test = split == "test" or not train
        content = _arrays((3, 32, 32) if split else (32, 32, 3))
        self.data = content["x_test" if test else "x_train"]
        self.labels = self.targets = list(content["y_test" if test else "y_train"])


@pytest.mark.parametrize(("name", "attribute"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100"), ("svhn", "SVHN")])
def test_torchvision_sets(
    tmp_path: Path, name: str, attribute: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TaskConfig(network="small", data=name, data_root=str(tmp_path / "here"))
    monkeypatch.setattr(torchvision.datasets, attribute, _FakeSet)
    with pytest.raises(UserError, match=rf"{name} is not in {tmp_path}/here .*no network.*npz:FILE"):
        read_arrays(config)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(_FakeSet, "present", True)
    assert read_arrays(config).x_train.shape == (20, 32, 32, 3)
    assert len(read_arrays(config).y_test) == 8


def test_workers_that_start_together_download_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = []

    class Slow(_FakeSet):
        def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
            self.present = (tmp_path / f"{train}").exists()
            if download and not self.present:
                downloads.append(train)
                time.sleep(0.2)
                (tmp_path / f"{train}").touch()
                self.present = True
            super().__init__(root, train, download=download)

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Slow)
    config = TaskConfig(network="small", data="cifar10", data_root=str(tmp_path))
    threads = [threading.Thread(target=read_arrays, args=(config,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(downloads) == [False, True]


def test_damaged_torchvision_files(tmp_path: Path) -> None:
    for stem in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        path = tmp_path / "MNIST" / "raw" / f"{stem}-ubyte"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(b"not an idx file"))
    with pytest.raises(UserError, match=rf"mnist in {tmp_path} cannot be read"):
        read_arrays(TaskConfig(network="small", data="mnist", data_root=str(tmp_path)))


def test_check_arrays_does_not_write_to_the_callers() -> None:
    content = _arrays()
    before = {name: array.copy() for name, array in content.items()}
    read = check_arrays(content, "here")
    read.y_train[0] = 3
    assert all(np.array_equal(content[name], before[name]) for name in before)

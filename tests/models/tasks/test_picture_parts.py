"""Bytes and pictures keep the identity and fingerprint that they always had: ledgers are found again by these."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.data.catalog import data_identity, data_info
from models.task_config import TaskConfig
from models.tasks.load import load_task
from models.tasks.picture_parts import task_parts
from search.settings.inputs import data_spec

X = (np.arange(40 * 3 * 8 * 6) * 7919 % 251).astype(np.uint8).reshape(40, 3, 8, 6)
Y = np.arange(40) % 4
ARRAYS = (X[:30], Y[:30], X[30:], Y[30:])
CODE = """
import numpy as np
def data():
    x = (np.arange(40*3*8*6) * 7919 % 251).astype(np.uint8).reshape(40,3,8,6)
    y = np.arange(40) % 4
    return x[:30], y[:30], x[30:], y[30:]
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", **dict(zip(("x_train", "y_train", "x_test", "y_test"), ARRAYS, strict=True)))
    Path("mine.py").write_text(CODE)
    for part, count in (("train", 3), ("val", 2)):
        for name in ("cat", "dog"):
            Path("pictures", part, name, "more").mkdir(parents=True)
            for i in range(count):
                place = f"pictures/{part}/{name}/{'more/' if i == 1 else ''}{i}.png"
                Image.fromarray(X[i].transpose(1, 2, 0)).save(place)


@pytest.mark.parametrize(
    ("data", "identity", "fingerprint"),
    [
        ("npz:data.npz", "npz:133408c1ff9a335facf3", "13bca642375fc91eb1ff"),
        ("mine.py:data", "arrays:d4407e552f41042f", "3385ee4d1eff900d8f50"),
        ("imagefolder:pictures", "imagefolder:b302742159ccc1772906", "20261ed533bebb164d85"),
        ("imagefolder:pictures@32", "imagefolder:b7751e6a5616caac1871", "5f86c02a833b2c3a3d72"),
        ("digits", "digits", "df68e123d96934879ab0"),
    ],
)
def test_named_data(data: str, identity: str, fingerprint: str) -> None:
    config = TaskConfig(network="small", data=data)
    assert (data_identity(config), load_task(config, "cpu").fingerprint) == (identity, fingerprint)


def test_given_arrays() -> None:
    spec = data_spec(ARRAYS, Path("given"))
    assert spec == "npz:given/arrays-d4407e552f41042f.npz"
    config = TaskConfig(network="small", data=spec)
    assert data_identity(config) == "npz:6d4231d8a77592e62a58"
    assert load_task(config, "cpu").fingerprint == "3d406af71d9a5591486e"


def test_statistics_to_the_last_digit() -> None:
    info = data_info(TaskConfig(network="small", data="npz:data.npz"))
    assert (info.mean, info.std) == ((0.490319, 0.489793, 0.490635), (0.284212, 0.284178, 0.284159))


def test_other_pixels_and_labels_are_other_tasks() -> None:
    names = ("x_train", "y_train", "x_test", "y_test")
    fingerprints = set()
    for images, labels in ((X, Y), (X / 255, Y), (X / 127.5 - 1, Y), (X, Y + 1)):
        np.savez("other.npz", **dict(zip(names, (images[:30], labels[:30], images[30:], labels[30:]), strict=True)))
        fingerprints.add(
            load_task(TaskConfig(network="small", data="npz:other.npz", mean=(0,) * 3, std=(1,) * 3), "cpu").fingerprint
        )
    assert len(fingerprints) == 4


def test_labels_with_gaps_are_not_taken_for_the_task_that_they_once_were() -> None:
    """They used to be classes 0 to the largest, of the same file: outcomes of that network are not this one's."""
    labels = Y * 2
    np.savez("gaps.npz", x_train=X[:30], y_train=labels[:30], x_test=X[30:], y_test=labels[30:])
    config = TaskConfig(network="small", data="npz:gaps.npz")
    parts = task_parts(config, data_info(config))
    assert parts["labels"] == [0, 2, 4, 6]
    np.savez("floats.npz", x_train=X[:30] / 255, y_train=Y[:30], x_test=X[30:] / 255, y_test=Y[30:])
    config = TaskConfig(network="small", data="npz:floats.npz")
    assert "labels" not in task_parts(config, data_info(config))
    assert task_parts(config, data_info(config))["pixels"]["high"] == 1  # type: ignore[index]

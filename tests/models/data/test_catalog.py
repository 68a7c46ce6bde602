"""What data names stand for: named sets, what a task overrides, and every name that is none."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from models.data.catalog import data_info, load_data
from models.data.named_sets import NAMED_SETS
from models.errors import UserError
from models.task_config import TaskConfig

CPU = torch.device("cpu")


def test_digits() -> None:
    data = load_data(TaskConfig(network="small"), CPU)
    assert data.info == data_info(TaskConfig(network="small")) == NAMED_SETS["digits"]
    x = torch.cat([x for part in (data.train, data.test) for x, _ in part.batches(999)])
    y = torch.cat([data.train.labels, data.test.labels])
    assert len(data.test) == 359  # a fifth of 1,797
    assert torch.bincount(y).tolist() == np.bincount(load_digits().target).tolist()
    raw = x * NAMED_SETS["digits"].std[0] + NAMED_SETS["digits"].mean[0]
    assert raw.sum().item() == pytest.approx(load_digits().images.sum() / 16, rel=2e-3)
    train = torch.cat([x for x, _ in data.train.batches(999)])
    assert (train.mean().item(), train.std().item()) == pytest.approx((0, 1), abs=1e-3)


@pytest.mark.parametrize("name", NAMED_SETS)
def test_named_info_reads_no_files(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("images were read")

    monkeypatch.setattr("models.data.catalog.read_arrays", refuse)
    info = data_info(TaskConfig(network="small", data=name, data_root="/nowhere"))
    assert len(info.mean) == len(info.std) == info.shape[0]


def test_what_the_task_overrides() -> None:
    config = TaskConfig(network="small", data="cifar10", mean=(0.1, 0.2, 0.3), std=(1, 2, 3), flip=False, crop=0)
    info = data_info(config)
    assert (info.mean, info.std, info.flip, info.crop) == ((0.1, 0.2, 0.3), (1, 2, 3), False, 0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("mean", (0.5,), r"mean \(0.5,\) has 1 value but the images have 3 channels"),
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

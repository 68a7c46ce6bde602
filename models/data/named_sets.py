"""Data sets that everybody knows, by name: their shapes, classes, and the mean and std that papers normalise with."""

from __future__ import annotations

from models.data.images import DataInfo
from models.errors import UserError, unknown_name

NAMED_SETS = {
    "digits": DataInfo("digits", (1, 8, 8), 10, (0.3060,), (0.3763,), flip=False, crop=1),
    "cifar10": DataInfo(
        "cifar10", (3, 32, 32), 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), flip=True, crop=4
    ),
    "cifar100": DataInfo(
        "cifar100", (3, 32, 32), 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), flip=True, crop=4
    ),
    "svhn": DataInfo("svhn", (3, 32, 32), 10, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), flip=False, crop=4),
    "mnist": DataInfo("mnist", (1, 28, 28), 10, (0.1307,), (0.3081,), flip=False, crop=2),
    "fashion-mnist": DataInfo("fashion-mnist", (1, 28, 28), 10, (0.2860,), (0.3530,), flip=True, crop=2),
    "imagenet": DataInfo(
        "imagenet", (3, 224, 224), 1000, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), flip=True, crop=0
    ),
}
"""`imagenet` is a shape to plan with; its images come as `imagefolder:DIR`."""


def unknown_data(name: str) -> UserError:
    """The error for a name that is no data set."""
    return unknown_name("data", name, [*NAMED_SETS, "imagefolder:DIR", "npz:FILE", "path/to/file.py:function"])

"""Whatever goes wrong with objects that were given, no message has the names that they have inside."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from models.errors import UserError
from search import api

INTERNAL = re.compile(r"object:|npz:|@[0-9a-f]{12}|given/")
RANDOM = np.random.default_rng(0)
LABELS = np.arange(60) % 3


def arrays() -> tuple[Any, Any, Any, Any]:
    images = RANDOM.integers(0, 256, (90, 8, 8), dtype=np.uint8)
    return images[:60], LABELS, images[60:], LABELS[:30]


class Net(nn.Module):
    def __init__(self, outputs: int = 3, width: int = 8, value: float | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3)
        self.bn, self.head = nn.BatchNorm2d(width), nn.Linear(width, outputs)
        if value is not None:
            nn.init.constant_(self.conv.weight, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn(self.conv(x)).relu().mean((2, 3)))


class One(Net):
    def forward(self, x: Tensor) -> Tensor:
        assert len(x) == 1 or not x.any(), "one at once"
        return super().forward(x)


def search(network: nn.Module, data: Any, results: Path, **settings: Any) -> None:
    settings = {"targets": ["0.5"], "epochs": 1, "final_epochs": 1, "workers": 0, "device": "cpu"} | settings
    api.search(network, data, results=str(results), show=False, **settings)


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "outputs": (lambda to: search(Net(outputs=4), arrays(), to), r"^the network given \(Net\) returns \(1, 4\)"),
    "weights": (lambda to: search(Net(value=float("nan")), arrays(), to), r"weights of the network given \(Net\) are"),
    "one image": (lambda to: search(One(), arrays(), to), r"^the network given \(One\) takes one of the 1×8×8 images"),
    "images": (lambda to: search(One(), arrays(), to), r"images of the arrays given but not 2 at once"),
    "target": (lambda to: search(Net(), arrays(), to, targets=["0.0001"]), r"on the network given \(Net\) can leave"),
    "too many": (lambda to: search(Net(), arrays(), to, train_images=99), "60 training images of the arrays given$"),
    "labels": (lambda to: search(Net(), (*arrays()[:3], LABELS[:20]), to), "x_test of the arrays given holds 30"),
    "data sets": (
        lambda to: search(Net(), [TensorDataset(torch.ones(4, 1, 8, 8), torch.zeros(4).long())] * 2, to),
        r"y_train of the data sets given \(TensorDataset\) holds one class only",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_messages_name_objects_as_the_user_does(tmp_path: Path, name: str) -> None:
    fault, words = FAULTS[name]
    with pytest.raises(UserError, match=words) as caught:
        fault(tmp_path)
    assert not INTERNAL.search(str(caught.value))

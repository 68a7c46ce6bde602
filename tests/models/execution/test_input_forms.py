"""Networks that take channels-last images alone, or change them in place, work as any other; others get advice."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.errors import UserError
from models.execution.input_forms import guard_inputs
from models.task_config import TaskConfig
from models.tasks.load import load_network, load_task
from models.tasks.pictures import PictureTask
from search import api
from search.settings.inputs import data_spec, task_of

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (90, 3, 8, 8), dtype=np.uint8)
DATA = (IMAGES[:60], np.arange(60) % 3, IMAGES[60:], np.arange(30) % 3)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn(self.conv(x)).relu().mean((2, 3)))


class ChannelsLast(Net):
    def forward(self, x: Tensor) -> Tensor:
        assert x.is_contiguous(memory_format=torch.channels_last), "wrong order"
        return super().forward(x)


class LaterOrder(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x)).relu()
        return self.head(x.permute(0, 2, 3, 1).view(-1).view(len(x), -1, 8).mean(1))


class InDouble(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double())


class InHalf(Net):
    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.float16, "half only"
        return super().forward(x)


def as_object(network: nn.Module, folder: Path) -> TaskConfig:
    return task_of(network, DATA, weights=None, results=str(folder), mean=None, std=None)


def as_file(network: nn.Module, folder: Path) -> TaskConfig:
    code = f"from {__name__} import {type(network).__name__}\ndef build(classes):\n"
    dtype = str(next(network.parameters()).dtype)
    (folder / "net.py").write_text(f"import torch\n{code}    return {type(network).__name__}().to({dtype})\n")
    return TaskConfig(network=f"{folder / 'net.py'}:build", data=data_spec(DATA, folder))


FORMS = [as_object, as_file]


def load(config: TaskConfig) -> PictureTask:
    return load_task(config, "cpu")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [ChannelsLast, LaterOrder])
def test_networks_that_need_channels_last(
    tmp_path: Path, kind: type[Net], form: Callable[[nn.Module, Path], TaskConfig]
) -> None:
    task = load(form(kind(), tmp_path))
    assert any("takes channels-last images alone; all images are brought" in notice for notice in task.notices)
    plain = Net().eval()
    plain.load_state_dict(task.network.state_dict())
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(task.network(images), task.network(images.to(memory_format=torch.channels_last)))
    assert torch.allclose(task.network(images), plain(images), atol=1e-5)


def test_one_that_needs_channels_last_is_searched_and_exported(tmp_path: Path) -> None:
    result = api.search(
        ChannelsLast(), DATA, results=str(tmp_path), targets=["0.5"], strategy=["acra-uniform"], epochs=1,
        final_epochs=1, final_seeds=1, workers=0, device="cpu", show=False,
    )  # fmt: skip
    result.export("0.5", to=tmp_path / "export")
    small = api.load_compressed(tmp_path / "export", network=ChannelsLast())
    program = torch.export.load(tmp_path / "export" / "model.pt2").module()
    images = torch.randn(2, 3, 8, 8)
    assert torch.allclose(program(images), small(images), atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("network", "name"), [(InDouble().double(), "float64"), (InHalf().half(), "float16")])
def test_networks_that_run_in_another_precision_alone(
    tmp_path: Path, network: nn.Module, name: str, form: Callable[[nn.Module, Path], TaskConfig]
) -> None:
    with pytest.raises(UserError, match=rf"cannot take .*; it runs in {name} alone and is worked on in float32"):
        load(form(network, tmp_path))


@pytest.mark.parametrize("form", FORMS)
def test_other_faults_get_no_advice(tmp_path: Path, form: Callable[[nn.Module, Path], TaskConfig]) -> None:
    class Wrong(Net):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("never")

    network = Wrong()
    globals()["Wrong"] = Wrong
    with pytest.raises(UserError, match=r"cannot take .*: RuntimeError: never$"):
        load(form(network, tmp_path))


class InPlace(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.mul_(2))


def test_a_guarded_network_and_its_copies_leave_their_inputs_alone() -> None:
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    network = InPlace().eval()
    expected = network(images.clone())
    guard_inputs(network)
    guard_inputs(network)
    for guarded in (network, copy.deepcopy(network)):
        inputs = images.clone()
        assert torch.equal(guarded(inputs), expected)
        assert torch.equal(inputs, images)


@pytest.mark.parametrize("mode", ["self.training", "not self.training"])
def test_a_loaded_network_leaves_its_inputs_alone(tmp_path: Path, mode: str) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        f"    def forward(self, x):\n        return super().forward(x.mul_(2) if {mode} else x)\n"
        "def build():\n    return Net(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))\n"
    )
    network = load_network(TaskConfig(network=f"{tmp_path}/net.py:build"))
    for training in (False, True):
        images = torch.ones(2, 1, 8, 8)
        network.train(training)(images)
        assert torch.equal(images, torch.ones(2, 1, 8, 8))

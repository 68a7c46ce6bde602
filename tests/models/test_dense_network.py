"""Networks made ready: first weights, lazy layers, and every network that does not go with its data."""

from pathlib import Path

import pytest
import torch
from task_files import task_config, write_task_files
from weight_files import save_weights

from models.errors import UserError
from models.task_config import TaskConfig
from models.tasks.load import load_network

SMALL = TaskConfig(network="small")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return write_task_files(tmp_path)


def test_fresh_weights_are_the_same_everywhere() -> None:
    one = load_network(SMALL)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    two = load_network(SMALL)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(t, two.state_dict()[k]) for k, t in one.state_dict().items())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("wide", r"returns \(1, 4\) for one image of npz:.*, not \(1, 3\)"),
        ("pair", r"returns tuple for one image"),
    ],
)
def test_network_that_does_not_fit_the_data(files: Path, function: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_network(task_config(files, network=f"{files}/net.py:{function}"))


def test_lazy_layers_have_shapes_and_the_same_first_weights_everywhere(files: Path) -> None:
    (files / "lazy.py").write_text(
        "from torch import nn\n"
        "def build(classes):\n"
        "    return nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(classes))\n"
    )
    config = TaskConfig(network=f"{files}/lazy.py:build", data="digits")
    one, other = load_network(config), load_network(config)
    assert one[2].weight.shape == (10, 144)  # type: ignore[index, union-attr]
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_network_that_keeps_its_activations_cannot_be_copied(files: Path) -> None:
    (files / "keeps.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.fc = nn.Linear(64, 10)\n"
        "    def forward(self, x):\n"
        "        with torch.enable_grad():\n"
        "            self.last = self.fc(x.flatten(1))\n"
        "        return self.last\n"
        "def build():\n    return Net()\n"
    )
    with pytest.raises(UserError, match="cannot be copied once it has been called"):
        load_network(TaskConfig(network=f"{files}/keeps.py:build", data="digits"))


def test_users_network_for_colour_and_grey_data(files: Path) -> None:
    with pytest.raises(UserError, match=r"cannot take the 1×8×8 images of digits: .*1.* to have 3 channels"):
        load_network(TaskConfig(network=f"{files}/net.py:rgb"))


def test_torchvision_network_for_small_images(files: Path) -> None:
    with pytest.raises(UserError, match=r"network alexnet cannot take the 3×8×8 images") as caught:
        load_network(task_config(files, network="alexnet"))
    assert "\n" not in str(caught.value)


def test_weights_of_another_network(files: Path) -> None:
    save_weights(load_network(SMALL), files / "w.safetensors", {})
    with pytest.raises(UserError, match=r"do not fit the network: .*0\.weight .* is missing"):
        load_network(task_config(files, weights=str(files / "w.safetensors")))

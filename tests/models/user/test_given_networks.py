"""Networks given as objects: what they are called depends on what they compute, and on nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.errors import UserError
from models.user import given_networks
from models.user.given_networks import give_network, given_network

SHAPE = (1, 8, 8)


class Net(nn.Module):
    def __init__(self, *, slope: float = 0.1, width: int = 4, drop: float = 0.5) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, width, 3), nn.Linear(width, 3)
        self.drop = nn.Dropout(drop)
        self.slope = slope
        self.register_buffer("scale", torch.ones(1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.drop(F.leaky_relu(self.conv(images), self.slope) * self.scale)
        return torch.as_tensor(self.head(features.mean((2, 3))))


class Twisted(Net):
    """The same parts in another order."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.flip(3))


Twisted.__name__ = Twisted.__qualname__ = "Net"


def test_weights_do_not_enter_the_name() -> None:
    torch.manual_seed(0)
    first, second = Net(), Net()
    assert not torch.equal(first.conv.weight, second.conv.weight)
    assert give_network(first, SHAPE) == give_network(second, SHAPE)


@pytest.mark.parametrize("change", [{"slope": 0.2}, {"width": 5}, {"drop": 0.4}])
def test_what_it_computes_does(change: dict[str, Any]) -> None:
    assert give_network(Net(), SHAPE) != give_network(Net(**change), SHAPE)


def test_code_and_constants_and_unsaved_buffers_do() -> None:
    changed = Net()
    changed.scale.fill_(2.0)
    assert len({give_network(network, SHAPE) for network in (Net(), Twisted(), changed)}) == 3


def test_the_object_stays_as_it_is_and_the_copy_is_apart() -> None:
    network = Net().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    spec = give_network(network, SHAPE)
    assert network.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    twin = given_network(spec)
    assert isinstance(twin, Net)
    with torch.no_grad():
        twin.conv.weight.zero_()
    again = given_network(spec)
    assert isinstance(again, Net)
    assert torch.equal(again.conv.weight, before["conv.weight"])


def test_another_process_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = give_network(Net(), SHAPE)
    monkeypatch.setattr(given_networks, "GIVEN_NETWORKS", {})
    with pytest.raises(UserError, match="was given as a Python object"):
        given_network(spec)


def test_wrong_inputs_are_refused() -> None:
    with pytest.raises(UserError, match="Net cannot take 3×8×8 images"):
        give_network(Net(), (3, 8, 8))

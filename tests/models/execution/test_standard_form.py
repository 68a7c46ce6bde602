"""The plain form of a network: wrappers off, modes that switch, float32, and the object's own habits kept."""

from __future__ import annotations

import copy

import pytest
import torch
import user_networks
from torch import nn

from models.errors import UserError
from models.execution.standard_form import standard_form
from models.notices import collect_notices
from models.user.given_networks import give_network, given_network

SHAPE = (3, 16, 16)


def _plain() -> nn.Module:
    torch.manual_seed(0)
    return user_networks.plain(classes=3, channels=3)  # type: ignore[no-any-return, no-untyped-call]


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        torch.compile,
        lambda network: nn.DataParallel(torch.compile(network)),
        lambda network: torch.optim.swa_utils.AveragedModel(nn.DataParallel(network)),
    ],
)
def test_wrappers_change_neither_names_nor_weights_nor_what_it_is_called(wrap: object) -> None:
    expected = _plain().state_dict()
    network = standard_form(wrap(_plain()), "net")  # type: ignore[operator]
    assert network.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())
    assert give_network(wrap(_plain()), SHAPE) == give_network(_plain(), SHAPE)  # type: ignore[operator]


def test_an_object_keeps_its_wrappers_and_its_compiled_call() -> None:
    network = nn.Sequential(nn.DataParallel(_plain()))
    network.compile()
    spec = give_network(network, SHAPE)
    assert isinstance(network[0], nn.DataParallel)
    assert network._compiled_call_impl is not None
    with collect_notices() as notices:
        twin = given_network(spec)
    assert isinstance(twin, nn.Sequential)
    assert type(twin[0]).__name__ == "Net"
    assert twin._compiled_call_impl is None
    notice = "the network given (Sequential): DataParallel taken off"
    assert notices == [notice]  # a copy is not compiled in the first place


def test_layers_that_train_leaves_frozen_stay_so() -> None:
    network = standard_form(user_networks.train_returns_nothing(classes=3, channels=3), "net")
    for twin in (network, copy.deepcopy(network)):
        assert twin.train() is twin
        assert twin.training
        assert not twin.features[0][1].training
        assert twin.features[1][1].training
        assert twin.eval() is twin
        assert not any(module.training for module in twin.modules())


@pytest.mark.parametrize("function", ["eval_takes_loader", "train_is_a_loop"])
def test_methods_of_the_same_name_are_not_taken_for_modes(function: str) -> None:
    network = nn.Sequential(getattr(user_networks, function)(classes=3, channels=3))
    standard_form(network, "net")
    for training in (True, False):
        network.train(training)
        assert all(module.training is training for module in network.modules())


def test_lazy_objects_are_called_first() -> None:
    network = user_networks.lazy(classes=3, channels=3).eval()
    with pytest.raises(UserError, match="lazy layers without shapes yet"):
        give_network(network, SHAPE)
    images = torch.ones(2, *SHAPE)
    expected = network(images)
    assert torch.equal(given_network(give_network(network, SHAPE)).eval()(images), expected)


def test_scripted_objects_are_refused() -> None:
    with pytest.raises(UserError, match="is a TorchScript program"):
        give_network(user_networks.scripted(classes=3, channels=3), SHAPE)

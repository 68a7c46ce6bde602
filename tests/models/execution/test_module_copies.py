"""Copies of networks that keep what a forward pass computed."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from models.execution.module_copies import copy_module, copy_on_write


def test_old_weight_norm_is_copied() -> None:
    images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        network[0] = nn.utils.weight_norm(network[0])
    with pytest.raises(RuntimeError):
        copy.deepcopy(network)
    expected = network.eval()(images)
    twin = copy_module(network)
    assert torch.equal(twin(images), expected)
    with torch.no_grad():
        twin[0].weight_g.zero_()  # type: ignore[operator]
    assert torch.equal(network(images), expected)


def test_a_copy_on_write_is_apart_from_the_original() -> None:
    images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 4)).eval()
    expected = network(images)
    twin, other = copy_on_write(network), copy_on_write(network)
    for parameter in twin.train().parameters():
        with torch.no_grad():
            parameter.add_(1)
    twin(images)  # its statistics change
    assert torch.equal(network(images), expected)
    with torch.no_grad():
        network[0].weight.zero_()
    assert torch.equal(other(images), expected)


def test_a_copy_on_write_takes_no_memory_until_then() -> None:
    network = nn.Linear(64, 64)
    twin = copy_on_write(network)
    # `_is_cow_tensor` is torch's own word on whether memory is still shared.
    assert torch._C._is_cow_tensor(twin.weight)
    twin(torch.ones(2, 64)).sum().backward()
    assert torch._C._is_cow_tensor(twin.weight)
    with torch.no_grad():
        twin.weight.mul_(2)
    assert not torch._C._is_cow_tensor(twin.weight)


def test_tied_parameters_stay_tied_in_a_copy_on_write() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[1].weight = network[0].weight
    twin = copy_on_write(network)
    assert twin[1].weight is twin[0].weight is not network[0].weight


def test_hooks_of_a_copy_are_its_own() -> None:
    """No copy shares a mapping with its original, an empty one included; what two attributes name stays one."""
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    network.notes = network.more_notes = {}
    for copied in (copy_module(network), copy_on_write(network)):
        assert copied.notes is copied.more_notes is not network.notes
        calls: list[str] = []
        copied[0].register_forward_hook(lambda *_: calls.append("copy"))  # noqa: B023
        network(torch.ones(2, 4))
        assert not calls
        copied(torch.ones(2, 4))
        assert calls == ["copy"]
    assert torch._C._is_cow_tensor(copy_on_write(network)[1].running_mean)

"""Copies of networks that keep what a forward pass computed."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from models.execution.module_copies import copy_module


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

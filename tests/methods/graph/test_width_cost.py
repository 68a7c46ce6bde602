"""The cost model against torch's own counter, on dense and on really pruned networks, to the unit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from independent import count_cost
from torch import nn

from methods.base import Compressor, Cost
from methods.registry import create
from models.networks.catalog import build_network
from search.allocation.allocate import project_shape, uniform_shape
from search.allocation.budget import Budget

CIFAR = ["resnet20", "resnet56", "vgg16-cifar", "densenet40"]
TORCHVISION = [
    "resnet18",
    "resnet50",
    "vgg16_bn",
    "googlenet",
    "densenet121",
    "mobilenet_v2",
    "efficientnet_b0",
    "resnext50_32x4d",
]
SLOW = {"vgg16_bn", "densenet121"}
KEPT = (0.7, 0.5, 0.3)


def network_cases() -> list[object]:
    native = [(name, 32, 10) for name in CIFAR]
    smaller = [(name, 64, 1000) for name in TORCHVISION]
    networks = [*native, *smaller]
    return [
        pytest.param(*network, id=network[0], marks=[pytest.mark.slow] if network[0] in SLOW else [])
        for network in networks
    ]


def uniform_levels(compressor: Compressor, share: float) -> np.ndarray:
    limit = int(share * compressor.cost.dense.flops)
    return project_shape(
        uniform_shape(len(compressor.sites)), compressor.sites, Budget({"flops": limit}, compressor.cost)
    ).levels


@pytest.mark.parametrize(("name", "size", "classes"), network_cases())
def test_equals_an_independent_count_dense_and_pruned(name: str, size: int, classes: int) -> None:
    torch.manual_seed(0)
    network = build_network(name, classes=classes)
    image = torch.randn(2, 3, size, size)
    compressor = create("l1", network, image)
    assert compressor.cost.dense == count_cost(network, image)
    previous = compressor.cost.dense.flops
    for kept in KEPT:
        levels = uniform_levels(compressor, kept)
        allocation = compressor.allocation(levels)
        predicted = compressor.cost_of(allocation)
        assert predicted == count_cost(compressor.compress(allocation), image), kept
        assert kept - 0.005 <= predicted.flops / compressor.cost.dense.flops <= kept
        assert predicted.flops < previous
        previous = predicted.flops


@pytest.mark.parametrize("seed", range(4))
def test_holds_for_any_allocation_not_only_uniform_ones(seed: int) -> None:
    network = build_network("resnet20", classes=10)
    image = torch.randn(2, 3, 32, 32)
    compressor = create("l1", network, image)
    generator = np.random.default_rng(seed)
    levels = np.array([generator.integers(len(site.settings)) for site in compressor.sites])
    allocation = compressor.allocation(levels)
    assert compressor.cost_of(allocation) == count_cost(compressor.compress(allocation), image)


def test_many_allocations_at_once_equal_each_alone() -> None:
    compressor = create("l1", build_network("small", classes=10, channels=1), torch.randn(2, 1, 8, 8))
    generator = np.random.default_rng(0)
    levels = np.array([[generator.integers(len(s.settings)) for s in compressor.sites] for _ in range(50)])
    together = compressor.cost(levels)
    alone = [compressor.cost(row[None]) for row in levels]
    for column in range(3):
        assert together[column].tolist() == [int(each[column][0]) for each in alone]


def test_small_network_by_hand() -> None:
    """Two convolutions and a linear layer, widths 6 and 4, counted on paper."""
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )
    compressor = create("l1", network, torch.randn(2, 3, 8, 8))
    assert [site.name for site in compressor.sites] == ["0", "3"]
    for first, second in [(6, 4), (5, 4), (3, 1), (1, 3)]:
        levels = [6 - first, 4 - second]
        cost = compressor.cost_of(compressor.allocation(levels))
        flops = 64 * 9 * 3 * first + 16 * 9 * first * second + 5 * second
        params = 27 * first + 2 * first + 9 * first * second + second + 5 * second + 5
        assert cost == Cost(flops, params, 4 * params)


def test_cost_never_rises_along_any_ladder() -> None:
    """What `Site` promises and every strategy relies on."""
    for name, size in (("resnet20", 32), ("mobilenet_v2", 32), ("googlenet", 64)):
        compressor = create("l1", build_network(name, classes=10), torch.randn(2, 3, size, size))
        for index, site in enumerate(compressor.sites):
            levels = np.zeros((len(site.settings), len(compressor.sites)), dtype=np.intp)
            levels[:, index] = np.arange(len(site.settings))
            costs = compressor.cost(levels)
            assert (np.diff(costs.flops) < 0).all(), site.name
            assert (np.diff(costs.params) < 0).all(), site.name


def test_a_thousand_allocations_are_vectorised() -> None:
    """One call with many rows gives integers of the right shape; no loss of precision at ImageNet size."""
    compressor = create("l1", build_network("resnet18", classes=1000), torch.randn(2, 3, 64, 64))
    rows = np.zeros((1000, len(compressor.sites)), dtype=np.intp)
    costs = compressor.cost(rows)
    assert costs.flops.dtype.kind == "i"
    assert set(costs.flops.tolist()) == {compressor.cost.dense.flops}
    assert math.prod(costs.flops.shape) == 1000

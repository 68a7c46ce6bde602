"""Sites of published networks against those that torch-pruning's dependency graph gave (1.6.1, July 2026).

`dependency_graph.json`: the number of sites, their channels, and the least share of the FLOPs that could be kept, at 32
or 96 pixels.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from methods.graph.channel_sites import ChannelGroups
from models.networks.catalog import build_network

TABLE = json.loads((Path(__file__).parent / "dependency_graph.json").read_text())
SMALL = ("resnet20", "resnet56", "vgg16-cifar", "densenet40", "small")
QUICK = (*SMALL, "resnet18", "mobilenet_v3_small", "squeezenet1_1", "mnasnet0_5", "regnet_y_400mf")
cases = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in TABLE]


@pytest.mark.parametrize("name", cases)
def test_no_site_is_lost(name: str) -> None:
    torch.manual_seed(0)
    size, classes = (32, 10) if name in SMALL else (96, 1000)
    network = build_network(name, classes=classes)
    groups = ChannelGroups(network, torch.randn(2, 3, size, size))
    old = TABLE[name]
    assert len(groups.sites) >= old["sites"]
    assert sum(group.channels for group in groups.groups) >= old["channels"]
    fewest = np.array([[len(site.settings) - 1 for site in groups.sites]])
    assert groups.cost(fewest).flops[0] / groups.cost.dense.flops <= old["least"] + 1e-4

"""Modules that narrow themselves (`keep_in`, `keep_out`), here the option-A shortcuts of CIFAR ResNets."""

from __future__ import annotations

import copy

import torch
from torch import nn

from methods.graph.channel_sites import ChannelGroups
from models.networks.catalog import build_network


def test_residual_stages_are_separate_groups() -> None:
    """Additions couple the second convolutions of a stage's blocks; the shortcut between two stages couples nothing."""
    network = build_network("resnet20", classes=10).eval()
    groups = ChannelGroups(network, torch.randn(1, 3, 32, 32)).groups
    writers = [
        sorted(slots.name for slots in group.slots
               if slots.side == "out" and isinstance(network.get_submodule(slots.name), nn.Conv2d))
        for group in groups
    ]  # fmt: skip
    stages = [sorted([f"layer{s}.{i}.conv2" for i in range(3)] + ["conv1"] * (s == 1)) for s in (1, 2, 3)]
    inner = [[f"layer{s}.{i}.conv1"] for s in (1, 2, 3) for i in range(3)]
    assert sorted(map(tuple, writers)) == sorted(map(tuple, stages + inner))


def test_a_narrowed_stage_is_the_silenced_one() -> None:
    """Removing stage-1 channels must equal silencing them: in their norms, and so in the shortcut to stage 2."""
    torch.manual_seed(0)
    network = build_network("resnet20", classes=10).eval()
    images = torch.randn(2, 3, 32, 32)
    silenced = copy.deepcopy(network)
    gone = torch.tensor([0, 3, 5])
    with torch.no_grad():
        for norm in [silenced.bn1, *(block.bn2 for block in silenced.layer1)]:
            norm.weight[gone] = 0
            norm.bias[gone] = 0
        staying = torch.tensor([channel for channel in range(16) if channel not in gone])
        narrowed = copy.deepcopy(network)
        ChannelGroups(network, images).narrow_network(narrowed, {"conv1": staying})
        assert (narrowed.layer2[0].shortcut.in_channels, narrowed.layer2[0].shortcut.out_channels) == (13, 32)
        torch.testing.assert_close(narrowed(images), silenced(images), rtol=1e-4, atol=1e-4)

"""Trials on smaller images: only where the network's code is the same on them, and never instead of the example."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from methods.graph.channel_sites import ChannelGroups
from methods.graph.channels import set_partitions
from methods.graph.flow.find import trace_groups
from methods.graph.trace import trace_layers
from methods.graph.trial_images import SIDE, trial_images
from methods.graph.verify import sound_groups
from models.execution.inputs import Inputs


class Convolutions(nn.Module):
    """Two convolutions and a classifier that takes images of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, stride=4), nn.Conv2d(8, 8, 3)
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(torch.relu(self.first(x))).mean((2, 3)))


class OneSize(Convolutions):
    """Its classifier holds the number of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(8 * 31 * 31, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(torch.relu(self.first(x))).flatten(1))


class OtherCode(Convolutions):
    """Large images go another way."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 2 if x.shape[-1] > 100 else x)


class ReadsData(Convolutions):
    """What the images hold decides."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(-x if x.sum() > 0 else x)


class MixesWhenLarge(Convolutions):
    """Only on large images does each channel reach another: the same operators, with other numbers."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.last(self.second(h.roll(h.shape[-1] // 20, 1)).mean((2, 3)))


def images_for(network: nn.Module, size: int = 131) -> Inputs:
    example = Inputs.of(torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)))
    return trial_images(network, example, trace_groups(network, example, trace_layers(network, example)))


def test_a_network_of_any_size_is_tried_on_smaller_images() -> None:
    assert images_for(Convolutions().eval()).args[0].shape == (1, 3, SIDE, SIDE)


@pytest.mark.parametrize("network", [OneSize, OtherCode, ReadsData])
def test_others_are_tried_as_they_are(network: type[nn.Module]) -> None:
    assert images_for(network().eval()).args[0].shape == (1, 3, 131, 131)


def test_small_images_stay() -> None:
    assert images_for(Convolutions().eval(), size=100).args[0].shape == (1, 3, 100, 100)


def test_what_only_large_images_do_is_found() -> None:
    """The trace on small images sees no coupling; neither does a trial on them, but one look at the example does."""
    network, example = MixesWhenLarge().eval(), Inputs.of(torch.randn(1, 3, 131, 131))
    small = Inputs.of(example.args[0][..., :SIDE, :SIDE])
    traced = trace_groups(network, small, trace_layers(network, small))
    set_partitions(traced.groups, network)
    assert "first" in [group.name for group in sound_groups(network, small, traced.groups, traced)[0]]
    sound, reasons = sound_groups(network, example, traced.groups, traced, small)
    assert "first" not in [group.name for group in sound]
    assert "images of the example's size" in reasons["first"]


class LessItsMean(nn.Module):
    """With a single position behind its strides, nothing of its channels would be left."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, stride=8), nn.Conv2d(8, 8, 3, stride=8)
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(torch.relu(self.first(x)))
        return self.last(torch.relu(h - h.mean((2, 3), keepdim=True)).mean((2, 3)))


def test_what_smaller_images_find_wrong_is_tried_on_the_example() -> None:
    """There a trial sees no channel at all; of 3 × 3 positions, it sees all of them."""
    torch.manual_seed(0)
    network, example = LessItsMean().eval(), torch.randn(1, 3, 200, 200)
    assert images_for(network, size=200).args[0].shape == (1, 3, SIDE, SIDE)
    assert [site.name for site in ChannelGroups(network, example).sites] == ["first", "second"]

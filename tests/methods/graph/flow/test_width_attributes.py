"""Modules that compare what they get with an integer of their own."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.graph.channel_sites import ChannelGroups

IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Checked(nn.Module):
    """A layer that raises on any other width; its attribute `scale` equals the width by chance, and is none."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inputs, self.outputs, self.scale = inputs, outputs, 8
        self.layer = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.inputs:
            raise ValueError("the channels are not those of the configuration")
        y = F.relu(self.layer(x))
        assert y.shape[1] == self.outputs
        return y


class Stages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.fc = Checked(3, 8), Checked(8, 6), nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        return torch.as_tensor(self.fc(self.second(self.first(images)).mean((2, 3))))


def test_a_width_that_code_compares_is_written_where_that_code_raised() -> None:
    groups = ChannelGroups(Stages().eval(), IMAGES)
    assert {site.name: site.channels for site in groups.sites} == {"first.layer": 8, "second.layer": 6}
    dense, small = Stages().eval(), Stages().eval()
    staying = {"first.layer": torch.tensor([0, 5, 7]), "second.layer": torch.tensor([1, 2])}
    groups.narrow_network(small, staying)
    assert (small.first.inputs, small.first.outputs, small.second.inputs, small.second.outputs) == (3, 3, 3, 2)
    a, b = staying.values()
    x = F.relu(F.conv2d(IMAGES, dense.first.layer.weight[a], dense.first.layer.bias[a]))
    x = F.relu(F.conv2d(x, dense.second.layer.weight[b][:, a], dense.second.layer.bias[b]))
    torch.testing.assert_close(small(IMAGES), F.linear(x.mean((2, 3)), dense.fc.weight[:, b], dense.fc.bias))


class Scaled(Checked):
    """The attribute is a factor as well, which has to stay."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.inputs


class Counting(Checked):
    """The attribute says how often the layer runs: written anew, it would change the network."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + sum(F.relu(self.layer(x + step)) for step in range(self.inputs))


def test_a_factor_of_the_same_value_stays() -> None:
    dense, small = Stages().eval(), Stages().eval()
    dense.second, small.second = Scaled(8, 6), Scaled(8, 6)
    small.load_state_dict(dense.state_dict())
    groups = ChannelGroups(dense, IMAGES)
    a, b = staying = (torch.tensor([0, 5, 7]), torch.tensor([1, 2]))
    groups.narrow_network(small, dict(zip(["first.layer", "second.layer"], staying, strict=True)))
    x = F.relu(F.conv2d(IMAGES, dense.first.layer.weight[a], dense.first.layer.bias[a]))
    x = 8 * F.relu(F.conv2d(x, dense.second.layer.weight[b][:, a], dense.second.layer.bias[b]))
    torch.testing.assert_close(small(IMAGES), F.linear(x.mean((2, 3)), dense.fc.weight[:, b], dense.fc.bias))


def test_where_a_width_is_another_number_too_the_channels_stay() -> None:
    network = Stages().eval()
    network.second = Counting(8, 6)
    groups = ChannelGroups(network, IMAGES)
    assert {site.name for site in groups.sites} == {"second.layer"}
    assert "first.layer" in groups.skipped


class GroupSpread(nn.Module):
    """Each channel over the standard deviation of its group; as many groups as there were at first."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        assert channels % self.groups == 0
        parts = x.reshape(count, self.groups, channels // self.groups, height, width)
        spread = parts.var((2, 3, 4), correction=0, keepdim=True).add(1e-5).sqrt()
        return x / spread.expand(parts.shape).reshape(x.shape)


def test_a_number_of_groups_is_written_with_the_channels() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 10, 1), GroupSpread(5), nn.AvgPool2d(6), nn.Flatten(), nn.Linear(10, 4)).eval()
    groups = ChannelGroups(network, IMAGES)
    assert [len(site.settings) for site in groups.sites] == [5]  # groups of two channels, which go as a whole
    small = copy.deepcopy(network)
    groups.narrow_network(small, {"0": torch.tensor([0, 2, 4])})
    staying = torch.tensor([0, 1, 4, 5, 8, 9])
    x = F.conv2d(IMAGES, network[0].weight[staying], network[0].bias[staying])  # type: ignore[index]
    groups_of_two = [x[:, i : i + 2] / (x[:, i : i + 2].var((1, 2, 3), correction=0) + 1e-5).sqrt()[:, None, None, None]
                     for i in (0, 2, 4)]  # fmt: skip
    pooled = torch.cat(groups_of_two, 1).mean((2, 3))
    expected = F.linear(pooled, network[4].weight[:, staying], network[4].bias)  # type: ignore[index]
    torch.testing.assert_close(small(IMAGES), expected)

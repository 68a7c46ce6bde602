"""Networks that hold tensors as plain attributes, and that return objects of their own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.graph.channel_sites import ChannelGroups

IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@dataclass
class Scores:
    logits: Tensor
    boxes: Tensor | None = None


class Attributes(nn.Module):
    """A scale, a table of positions and an order of channels, none of them registered."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.fc = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Linear(6, 4)
        self.scale = torch.rand(8, 1, 1) + 0.5
        self.positions = torch.randn(1, 6, 36)

    def forward(self, images: Tensor) -> Scores:
        x = F.relu(self.a(images)) * self.scale.to(images.device)
        x = F.relu(self.b(x).flatten(2) + self.positions)
        return Scores(self.fc(x.mean(2)), None)


def test_tensors_that_are_no_parameters_go_with_their_channels() -> None:
    network = Attributes().eval()
    groups = ChannelGroups(network, IMAGES)
    assert {site.name: site.channels for site in groups.sites} == {"a": 8, "b": 6}
    small, staying = Attributes().eval(), {"a": torch.tensor([1, 4, 6]), "b": torch.tensor([0, 3])}
    groups.narrow_network(small, staying)
    a, b = staying.values()
    x = F.relu(F.conv2d(IMAGES, network.a.weight[a], network.a.bias[a])) * network.scale[a]
    x = F.relu(F.conv2d(x, network.b.weight[b][:, a], network.b.bias[b]).flatten(2) + network.positions[:, b])
    expected = F.linear(x.mean(2), network.fc.weight[:, b], network.fc.bias)
    torch.testing.assert_close(small(IMAGES).logits, expected)


def test_outputs_in_an_object_are_outputs() -> None:
    assert ChannelGroups(Attributes(), IMAGES).skipped == {"fc": "it is an output of the network"}

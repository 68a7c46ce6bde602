"""Networks whose channels pass through tensors of indices that they hold."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.graph.channel_sites import ChannelGroups

IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
ORDER = torch.tensor([5, 0, 7, 2, 3, 6, 1, 4])


class Picks(nn.Module):
    def __init__(self, order: Tensor, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.register_buffer("order", order)
        width = int(order.sum()) if order.dtype == torch.bool else len(order)
        self.a, self.b, self.fc = nn.Conv2d(3, 8, 1), nn.Conv2d(width, 6, 1), nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.a(images))
        if self.how == "gather":
            x = x.gather(1, self.order.view(1, -1, 1, 1).expand(len(x), -1, *x.shape[2:]))
        else:
            x = x.index_select(1, self.order) if self.how == "select" else x[:, self.order]
        scores: Tensor = self.fc(F.relu(self.b(x)).mean((2, 3)))
        return scores


@pytest.mark.parametrize("how", ["select", "gather", "index"])
def test_an_order_names_the_places_of_the_remaining_channels(how: str) -> None:
    network, kept = Picks(ORDER, how).eval(), torch.tensor([0, 2, 3, 7])
    groups = ChannelGroups(network, IMAGES)
    assert {site.name: site.channels for site in groups.sites} == {"a": 8, "b": 6}
    small = Picks(ORDER, how).eval()
    # The group's channels are those of `a`, in their order.
    groups.narrow_network(small, {"a": kept})
    assert small.a.out_channels == small.b.in_channels == 4
    assert small.order.tolist() == [0, 3, 1, 2]  # of 5, 0, 7, 2, 3, 6, 1, 4 remain 0, 7, 2, 3
    with torch.no_grad():
        network.b.weight[:, [0, 5, 6, 7]] = 0  # what 5, 6, 1 and 4 bring
        torch.testing.assert_close(small(IMAGES), network(IMAGES))


def test_negative_and_repeated_indices() -> None:
    order = torch.tensor([-1, 0, 0, 1, 2, 3, 4, 5, 6])
    network = Picks(order, "index").eval()
    groups, small = ChannelGroups(network, IMAGES), Picks(order, "index").eval()
    group = next(group for group in groups.groups if "a" in group.layers)
    channels = next(slots for slots in group.slots if (slots.name, slots.side) == ("a", "out"))
    staying = torch.arange(0, group.channels, 2)
    gone = channels.index[~torch.isin(channels.channel, staying)]
    groups.narrow_network(small, {group.name: staying})
    assert 0 < len(gone) == 8 - small.a.out_channels
    with torch.no_grad():
        network.b.weight[:, torch.isin(order % 8, gone)] = 0
        torch.testing.assert_close(small(IMAGES), network(IMAGES))


def test_a_mask_over_channels_goes_with_them() -> None:
    mask = torch.tensor([True, True, False, True, True, False, True, True])
    network = Picks(mask, "index").eval()
    groups, small = ChannelGroups(network, IMAGES), Picks(mask, "index").eval()
    # Of the group, the six channels that the mask lets through.
    groups.narrow_network(small, {"a": torch.tensor([1, 2])})
    assert small.b.in_channels == 2
    with torch.no_grad():
        network.b.weight[:, [0, 3, 4, 5]] = 0
        torch.testing.assert_close(small(IMAGES), network(IMAGES))

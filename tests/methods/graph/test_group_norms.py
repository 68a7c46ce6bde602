"""Group norms that normalise every channel alone."""

from __future__ import annotations

import torch
from coupled_nets.pieces import CLASSES, Pieces, conv, pool_mean
from torch import nn

from methods.graph.channel_sites import ChannelGroups

IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def build_net(norm: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return Pieces(
        lambda n, x: n.fc(pool_mean(torch.relu(n.z(n.norm(n.a(x)))))),
        a=conv(3, 6), norm=norm, z=conv(6, 5), fc=nn.Linear(5, CLASSES),
    ).eval()  # fmt: skip


def test_a_norm_of_every_channel_alone_loses_any_channel_and_stays_an_instance_norm() -> None:
    grouped, instance = build_net(nn.GroupNorm(6, 6)), build_net(nn.InstanceNorm2d(6, affine=True))
    torch.testing.assert_close(grouped(IMAGES), instance(IMAGES))
    groups, others = ChannelGroups(grouped, IMAGES), ChannelGroups(instance, IMAGES)
    assert [site.widths for site in groups.sites] == [site.widths for site in others.sites] == [
        (6, 5, 4, 3, 2, 1), (5, 4, 3, 2, 1)]  # fmt: skip
    staying = {"a": torch.tensor([0, 1, 3, 4]), "z": torch.tensor([2, 4])}
    groups.narrow_network(grouped, staying)
    others.narrow_network(instance, staying)
    torch.testing.assert_close(grouped(IMAGES), instance(IMAGES))
    assert (grouped.norm.num_groups, grouped.norm.num_channels) == (4, 4)

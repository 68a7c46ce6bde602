"""Norms over the last dimensions, narrowed: against functional norms of sliced weights."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from coupled_nets.pieces import CLASSES, Pieces, conv, pool_mean
from torch import Tensor, nn

from methods.graph.channel_sites import ChannelGroups

IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
KEPT = torch.tensor([0, 2, 3, 7])


class SecondNorm(nn.RMSNorm):
    """Over the second dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def build_net(norm: nn.Module) -> nn.Module:
    """A residual stream of eight channels with a norm over channels, which come last where the norm wants them so."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = n.a(x)
        normed = n.norm(x.movedim(1, -1)).movedim(-1, 1) if type(norm) is nn.RMSNorm else n.norm(x)
        return n.fc(pool_mean(x + n.b(normed)))

    torch.manual_seed(0)
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return Pieces(run_net, a=conv(3, 8), norm=norm, b=conv(8, 8), fc=nn.Linear(8, CLASSES)).eval()


def remaining_outputs(network: nn.Module, normalise: Callable[[Tensor], Tensor]) -> Tensor:
    """The outputs of the remaining channels by the dense network's sliced weights."""
    a, b, fc = network.a, network.b, network.fc
    x = F.conv2d(IMAGES, a.weight[KEPT], a.bias[KEPT], padding=a.padding)
    y = F.conv2d(normalise(x), b.weight[KEPT][:, KEPT], b.bias[KEPT], padding=b.padding)
    return F.linear((x + y).mean((2, 3)), fc.weight[:, KEPT], fc.bias)


@pytest.mark.parametrize("norm", [nn.RMSNorm(8), nn.RMSNorm(8, elementwise_affine=False), SecondNorm(8, eps=1e-3)])
def test_an_rms_norm_measures_the_remaining_channels(norm: nn.RMSNorm) -> None:
    network = build_net(norm)
    groups, small = ChannelGroups(network, IMAGES), copy.deepcopy(network)
    assert {site.name: site.widths[-1] for site in groups.sites} == {"a": 1}
    groups.narrow_network(small, {"a": KEPT})
    weight = None if norm.weight is None else norm.weight[KEPT]
    expected = remaining_outputs(network, lambda x: F.rms_norm(x.movedim(1, -1), (4,), weight, norm.eps).movedim(-1, 1))
    torch.testing.assert_close(small(IMAGES), expected)
    assert small.norm.normalized_shape == (4,)


class Squeezed(nn.Module):
    """A factor on each channel by a norm of the channels' means, as global context blocks have it."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(sizes)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(x * self.norm(x.mean((2, 3), keepdim=True)))


def test_a_layer_norm_of_maps_of_one_position_goes_with_its_channels() -> None:
    network = build_net(Squeezed(8, 1, 1))
    groups, small = ChannelGroups(network, IMAGES), copy.deepcopy(network)
    assert {site.name: site.widths[-1] for site in groups.sites} == {"a": 1}
    groups.narrow_network(small, {"a": KEPT})
    inner = network.norm.norm

    def normalise(x: Tensor) -> Tensor:
        means = F.layer_norm(x.mean((2, 3)), (4,), inner.weight[KEPT, 0, 0], inner.bias[KEPT, 0, 0])
        return x * means[:, :, None, None]

    torch.testing.assert_close(small(IMAGES), remaining_outputs(network, normalise))
    assert small.norm.norm.normalized_shape == (4, 1, 1)


def test_a_layer_norm_of_whole_maps_holds_its_channels() -> None:
    groups = ChannelGroups(build_net(nn.LayerNorm((8, 6, 6))), IMAGES)
    assert groups.sites == ()
    assert groups.skipped["a"] == groups.skipped["b"] == "removing its channels changes more than those channels"

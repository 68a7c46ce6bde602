"""Channels that are consumed by a sum or norm over them, without a layer: they can be removed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from coupled_nets.pieces import CLASSES, SHAPE, Pieces, conv, pool_mean
from independent import empty_removed, randomise_channels
from torch import Tensor, nn

from methods.registry import create

READS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "norm": lambda a, b: b * a.norm(dim=1, keepdim=True),
    "normalised": lambda a, b: b + F.normalize(a, dim=1).relu().sum(1, keepdim=True),
    "sum": lambda a, b: b + a.sum(1, keepdim=True),
    "sum of products": lambda a, b: b * (a * a.sigmoid()).sum(1)[:, None],
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_channels_that_are_summed_can_be_removed(read: Callable[[Tensor, Tensor], Tensor]) -> None:
    """A removed channel is a zero in the sum."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return n.fc(pool_mean(read(n.summed(x), n.direct(x))))

    network = randomise_channels(
        Pieces(run_net, summed=conv(3, 6), direct=conv(3, 8), fc=nn.Linear(8, CLASSES)), seed=3
    )
    images = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    compressor = create("l1", network, images)
    assert {site.name: site.channels for site in compressor.sites} == {"summed": 6, "direct": 8}
    small = compressor.compress(compressor.allocation([2, 3]))
    with torch.no_grad():
        torch.testing.assert_close(small(images), empty_removed(network, small)(images), atol=1e-4, rtol=1e-4)


def test_a_grouped_layer_left_with_one_input_a_group_is_still_narrowed_as_grouped() -> None:
    """Its outputs and inputs go by themselves, though at the end it looks like a depthwise one."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return n.fc(pool_mean(F.relu(n.grouped(F.relu(n.stem(x))))))

    network = Pieces(run_net, stem=conv(3, 6), grouped=conv(6, 9, groups=3), fc=nn.Linear(9, CLASSES))
    images = torch.randn(2, *SHAPE)
    compressor = create("l1", network.eval(), images)
    small = compressor.compress(compressor.allocation([len(site.settings) - 1 for site in compressor.sites]))
    assert tuple(small.get_parameter("grouped.weight").shape) == (3, 1, 3, 3)
    assert small(images).shape == (2, CLASSES)

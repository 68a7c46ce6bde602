"""Weights that activations scale or mix before a convolution applies them: their FLOPs count for their parameter.

What is expected is counted by torch on the network that is really narrower, or a formula of the widths.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from coupled_nets.pieces import CLASSES, Pieces, conv, pool_mean
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from methods.dense_shares import dense_shares
from methods.graph.trace import trace_layers, uncounted_flops
from methods.registry import create

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
POSITIONS = 64


def demodulated() -> nn.Module:
    """A weight whose inputs are scaled by each image's style, and whose outputs are normalised (StyleGAN 2)."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        y = F.relu(n.stem(x))
        batch, _, *size = y.shape
        weight = n.kernel[None] * (n.style(pool_mean(y)) + 1)[:, None, :, None, None]
        weight = weight * (weight.pow(2).sum((2, 3, 4)) + 1e-8).rsqrt()[:, :, None, None, None]
        y = F.conv2d(y.reshape(1, -1, *size), weight.flatten(0, 1), padding=1, groups=batch)
        return n.fc(pool_mean(F.relu(y.reshape(batch, -1, *size))))

    return Pieces(
        run_net, stem=conv(3, 16), style=nn.Linear(16, 16), kernel=nn.Parameter(torch.randn(24, 16, 3, 3)),
        fc=nn.Linear(24, CLASSES),
    )  # fmt: skip


def mixed() -> nn.Module:
    """A weight that each image mixes of four (CondConv)."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        y = F.relu(n.stem(x))
        batch, width, *size = y.shape
        weight = torch.einsum("be,eoihw->boihw", n.router(pool_mean(y)).sigmoid(), n.bank).reshape(-1, width, 3, 3)
        y = F.conv2d(y.reshape(1, -1, *size), weight, padding=1, groups=batch).reshape(batch, -1, *size)
        return n.fc(pool_mean(F.relu(y)))

    return Pieces(
        run_net, stem=conv(3, 16), router=nn.Linear(16, 4), bank=nn.Parameter(torch.randn(4, 24, 16, 3, 3) * 0.1),
        fc=nn.Linear(24, CLASSES),
    )  # fmt: skip


def template() -> nn.Module:
    """What a layer computes is an activation, also where it is the kernel of a convolution (tracking)."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        y = F.relu(n.stem(x))
        kernel = n.neck(pool_mean(y)).view(len(x) * 16, 1, 1, 1)
        y = F.conv2d(y.reshape(1, len(x) * 16, *y.shape[2:]), kernel, groups=len(x) * 16)
        return n.fc(pool_mean(y.view(len(x), 16, *y.shape[2:])))

    return Pieces(run_net, stem=conv(3, 16), neck=nn.Linear(16, 16), fc=nn.Linear(16, CLASSES))


def count_multiplications(network: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.requires_grad_(False)(IMAGES[:1])
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("share", [0.0, 0.4, 0.9])
def test_a_scaled_weight_is_counted_and_narrowed(share: float) -> None:
    torch.manual_seed(0)
    compressor = create("l1", demodulated().eval(), IMAGES)
    assert {site.name: site.widths[-1] for site in compressor.sites} == {"stem": 1, "kernel": 1}
    allocation = compressor.allocation([int(share * len(site.settings)) for site in compressor.sites])
    small = compressor.compress(allocation)
    out, inputs = small.kernel.shape[:2]  # type: ignore[union-attr, misc]
    assert trace_layers(small, IMAGES)["kernel"].flops == POSITIONS * out * inputs * 9
    assert compressor.cost_of(allocation).flops == count_multiplications(small)


def test_a_mixed_weight_is_counted_for_its_bank_with_a_reason_to_stay() -> None:
    torch.manual_seed(0)
    network = mixed().eval()
    compressor = create("l1", network, IMAGES)
    applied, mixing = POSITIONS * 24 * 16 * 9, 4 * 24 * 16 * 9
    dense = compressor.cost_of(compressor.allocation([0] * len(compressor.sites))).flops
    assert trace_layers(network, IMAGES)["bank"].flops == applied + mixing
    assert dense == count_multiplications(network)
    (bank,) = (share for share in dense_shares(compressor, compressor.skipped) if "bank" in share.layers)
    assert bank.reason == compressor.skipped["bank"]
    assert bank.share >= (applied + mixing) / dense


def test_a_kernel_that_a_layer_computes_is_no_weight() -> None:
    network = template().eval()
    assert trace_layers(network, IMAGES)["neck"].flops == 16 * 16
    assert uncounted_flops(network, IMAGES) == POSITIONS * 16

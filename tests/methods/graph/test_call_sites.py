"""Where calls are made: the same place whatever modes are on, and norms by function get their numbers there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from coupled_nets.pieces import CLASSES, SHAPE, conv
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from methods.graph.call_sites import CallSite, find_call_site
from methods.registry import create


class NormByFunction(nn.Module):
    """A norm over the channels, as `facebookresearch/ConvNeXt` writes it; its size stands wherever `norm` says."""

    def __init__(self, norm: Callable[[NormByFunction, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.fc, self.norm = conv(3, 8), nn.Linear(8, CLASSES), norm
        self.weight, self.bias = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.randn(8))
        self.sizes, self.listed, self.size = (8,), [8], torch.Size([8])

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self, self.a(x).permute(0, 2, 3, 1)).relu().mean((1, 2)))


LAYER_NORMS: dict[str, Callable[[NormByFunction, Tensor], Tensor]] = {
    "tuple": lambda net, x: F.layer_norm(x, net.sizes, net.weight, net.bias),
    "list": lambda net, x: F.layer_norm(x, net.listed, weight=net.weight, bias=net.bias),
    "size": lambda net, x: F.layer_norm(x, normalized_shape=net.size, weight=net.weight, bias=net.bias),
    "literal": lambda net, x: F.layer_norm(x, (8,), net.weight, net.bias),
    "torch": lambda net, x: torch.layer_norm(x, net.sizes, net.weight, net.bias),
}


def narrow_closely(network: NormByFunction) -> tuple[nn.Module, Tensor]:
    """The network at half its width, and the channels that have stayed."""
    compressor = create("l1", network.eval(), torch.randn(2, *SHAPE))
    [site] = compressor.sites
    small = compressor.compress(compressor.allocation([site.widths.index(4)]))
    filters = network.a.weight.detach()
    kept = [int((filters == row).flatten(1).all(1).nonzero()) for row in small.get_parameter("a.weight").detach()]
    return small, torch.tensor(kept)


@torch.no_grad()
def expect_outputs(network: NormByFunction, images: Tensor, norm: Callable[[Tensor], Tensor], kept: Tensor) -> Tensor:
    """The closed form, on the slices of the parameters."""
    bias = None if network.a.bias is None else network.a.bias[kept]
    y = F.conv2d(images, network.a.weight[kept], bias, padding=1)
    y = norm(y.permute(0, 2, 3, 1)).relu().mean((1, 2))
    return y @ network.fc.weight[:, kept].T + network.fc.bias


@pytest.mark.parametrize("name", LAYER_NORMS)
def test_layer_norm_by_function_narrows(name: str) -> None:
    network, images = NormByFunction(LAYER_NORMS[name]), torch.randn(3, *SHAPE)
    small, kept = narrow_closely(network)

    def norm(y: Tensor) -> Tensor:
        scaled = (y - y.mean(-1, keepdim=True)) / (y.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        return scaled * network.weight[kept] + network.bias[kept]

    assert len(kept) == 4
    torch.testing.assert_close(small(images).detach(), expect_outputs(network, images, norm, kept))


def test_rms_norm_by_function_narrows() -> None:
    network = NormByFunction(lambda net, x: F.rms_norm(x, net.sizes, net.weight, 1e-5) + net.bias)
    images = torch.randn(3, *SHAPE)
    small, kept = narrow_closely(network)

    def norm(y: Tensor) -> Tensor:
        return y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * network.weight[kept] + network.bias[kept]

    torch.testing.assert_close(small(images).detach(), expect_outputs(network, images, norm, kept))


class SiteFinder(TorchFunctionMode):
    """Notes where calls are made, as seen from this mode."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: list[CallSite] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") != "__get__":
            self.sites.append(find_call_site(sys._getframe())[0])
        return func(*args, **(kwargs or {}))


class Calls(nn.Module):
    """Functions that are builtins, or hand themselves over in Python, in a helper and twice over."""

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.pool(x)).sum()

    def pool(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.layer_norm(x, x.shape[1:]), 1) / 2
        return torch.cat(torch.split(F.interpolate(F.relu(x), scale_factor=1.0), 1, 1), 1)


@pytest.mark.parametrize(("outer", "inner"), [(1, 0), (0, 1), (2, 2)])
def test_call_sites_do_not_depend_on_other_modes(outer: int, inner: int) -> None:
    network, images = Calls(), torch.randn(1, 4, 4, 4)

    def find_sites(outer: int, inner: int) -> list[CallSite]:
        finder = SiteFinder()
        with ExitStack() as modes:
            for mode in [*(SiteFinder() for _ in range(outer)), finder, *(SiteFinder() for _ in range(inner))]:
                modes.enter_context(mode)
            network(images)
        return finder.sites

    sites = find_sites(outer, inner)
    assert sites == find_sites(0, 0)
    assert len(set(sites)) == len(sites) > 12
    assert {site.instructions[-1][1] for site in sites} == {"Calls.pool", "Calls.forward"}

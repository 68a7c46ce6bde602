"""Parameters that several modules hold: they are narrowed alike, stay tied, and are counted and stored once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from coupled_nets.pieces import CLASSES, SHAPE, Pieces, conv, pool_mean
from independent import count_cost, empty_removed, randomise_channels
from torch import Tensor, nn

from methods.base import Compressor
from methods.registry import create
from search.judge.packed_weights import pack_weights, unpack_weights

IMAGES = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(2))


def tied_convolutions() -> nn.Module:
    """Two convolutions in a row with one weight and biases of their own: all share the channels of the stem."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return n.fc(pool_mean(F.relu(n.b(F.relu(n.a(F.relu(n.stem(x))))))))

    network = Pieces(run_net, stem=conv(3, 8), a=conv(8, 8), b=conv(8, 8), fc=nn.Linear(8, CLASSES))
    network.b.weight = network.a.weight
    return network


def tied_branches() -> nn.Module:
    """Branches of two inputs with one weight: the inputs lose the same channels, and so do the outputs."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        left, right = n.a(F.relu(n.left(x))), n.b(F.relu(n.right(x)))
        return n.fc(torch.cat([pool_mean(F.relu(left)), pool_mean(F.relu(right))], 1))

    pieces = {"left": conv(3, 8), "right": conv(3, 8), "a": conv(8, 6), "b": conv(8, 6)}
    network = Pieces(run_net, **pieces, fc=nn.Linear(12, CLASSES))
    network.b.weight, network.b.bias = network.a.weight, network.a.bias
    return network


def tied_depthwise() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return n.fc(pool_mean(F.relu(n.b(F.relu(n.a(F.relu(n.stem(x))))))))

    pieces = {"stem": conv(3, 8), "a": conv(8, 8, groups=8), "b": conv(8, 8, groups=8)}
    network = Pieces(run_net, **pieces, fc=nn.Linear(8, CLASSES))
    network.b.weight = network.a.weight
    return network


def tied_norms() -> nn.Module:
    """Norms with one scale and shift behind two convolutions."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return n.fc(pool_mean(F.relu(n.bn2(n.c2(F.relu(n.bn1(n.c1(x))))))))

    pieces = {"c1": conv(3, 8), "bn1": nn.BatchNorm2d(8), "c2": conv(8, 8), "bn2": nn.BatchNorm2d(8)}
    network = Pieces(run_net, **pieces, fc=nn.Linear(8, CLASSES))
    network.bn2.weight, network.bn2.bias = network.bn1.weight, network.bn1.bias
    return network


def tied_transposed() -> nn.Module:
    """An autoencoder: the decoder applies the encoder's weight the other way round."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return n.fc(pool_mean(F.relu(n.up(F.relu(n.down(F.relu(n.stem(x))))))))

    pieces = {"stem": conv(3, 6), "down": nn.Conv2d(6, 8, 2, 2), "up": nn.ConvTranspose2d(8, 6, 2, 2)}
    network = Pieces(run_net, **pieces, fc=nn.Linear(6, CLASSES))
    network.up.weight = network.down.weight
    return network


# network -> (its sites, its tied parameters)
CASES: dict[Callable[[], nn.Module], tuple[dict[str, int], list[tuple[str, str]]]] = {
    tied_convolutions: ({"stem": 8}, [("a.weight", "b.weight")]),
    tied_branches: ({"left": 8, "a": 6}, [("a.weight", "b.weight"), ("a.bias", "b.bias")]),
    tied_depthwise: ({"stem": 8}, [("a.weight", "b.weight")]),
    tied_norms: ({"c1": 8}, [("bn1.weight", "bn2.weight"), ("bn1.bias", "bn2.bias")]),
    tied_transposed: ({"stem": 6, "down": 8}, [("down.weight", "up.weight")]),
}
NETWORKS = [pytest.param(build, id=build.__name__) for build in CASES]


def bind_method(network: nn.Module) -> Compressor:
    return create("random", randomise_channels(network), torch.randn(2, *SHAPE))


@pytest.mark.parametrize("build", NETWORKS)
def test_sites(build: Callable[[], nn.Module]) -> None:
    sites = bind_method(build()).sites
    assert {site.name: site.channels for site in sites} == CASES[build][0]
    assert all(len(site.settings) == site.channels for site in sites)


@pytest.mark.parametrize("share", [0, 0.5, 1])
@pytest.mark.parametrize("build", NETWORKS)
def test_narrowed_stays_tied_and_equals_emptied(build: Callable[[], nn.Module], share: float) -> None:
    network = build()
    compressor = bind_method(network)
    levels = [int((len(site.settings) - 1) * share) for site in compressor.sites]
    small = compressor.compress(compressor.allocation(levels))
    for first, second in CASES[build][1]:
        assert small.get_parameter(first) is small.get_parameter(second)
    expected = empty_removed(network, small)(IMAGES).detach()
    assert torch.allclose(small(IMAGES), expected, atol=1e-4 * float(expected.abs().max()))
    assert compressor.cost_of(compressor.allocation(levels)) == count_cost(small, IMAGES)


@pytest.mark.parametrize("build", NETWORKS)
def test_files_hold_tied_parameters_once(build: Callable[[], nn.Module]) -> None:
    compressor = bind_method(build())
    levels = [(len(site.settings) - 1) // 2 for site in compressor.sites]
    allocation = compressor.allocation(levels)
    small = compressor.compress(allocation)
    tensors = pack_weights(compressor, small)
    assert [second in tensors for _, second in CASES[build][1]] == [False] * len(CASES[build][1])
    elsewhere = create("random", randomise_channels(build(), seed=1), torch.randn(2, *SHAPE))
    read = unpack_weights(elsewhere, allocation, tensors)
    assert torch.equal(read(IMAGES), small.eval()(IMAGES))
    for first, second in CASES[build][1]:
        assert read.get_parameter(first) is read.get_parameter(second)

"""Code that training, or another image, runs in another order or leaves out: calls still get the numbers that fit."""

from __future__ import annotations

import pytest
import torch
from coupled_nets.pieces import CLASSES, SHAPE, conv, pool_mean
from independent import empty_removed, randomise_channels
from torch import Tensor, nn

from methods.base import Compressor
from methods.registry import create

SEEDS = range(12)


class ResidualParts(nn.Module):
    """Residual parts of one width in a loop, with widths as constants; training runs some of them, last ones first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = conv(3, 8), nn.Linear(8, CLASSES)
        self.up = nn.ModuleList(conv(8, 16) for _ in range(3))
        self.down = nn.ModuleList(conv(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for i in torch.randperm(3)[: int(torch.randint(4, ()))] if self.training else range(3):
            x = x + self.down[i](self.gate(self.up[i](x)))
        return self.fc(pool_mean(x.relu()))

    def gate(self, x: Tensor) -> Tensor:
        values, gates = x.split(8, 1)
        return values * gates.sigmoid()


class Views(ResidualParts):
    def gate(self, x: Tensor) -> Tensor:
        return x.view(-1, 2, 8, 8, 8).prod(1)


class Slices(ResidualParts):
    def gate(self, x: Tensor) -> Tensor:
        return x[:, 8:] * x[:, :8].tanh()


class FirstTwelve(ResidualParts):
    """How many of the first ones remain is no matter of how many remain in all."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(conv(1, 8) for _ in range(3))

    def gate(self, x: Tensor) -> Tensor:
        return x[:, :12].amax(1, keepdim=True)


def bind_unequally(network: nn.Module) -> tuple[Compressor, nn.Module]:
    """Every part is left another width."""
    compressor = create("random", randomise_channels(network), torch.randn(2, *SHAPE))
    levels = [(1 + 2 * i) % len(site.settings) for i, site in enumerate(compressor.sites)]
    return compressor, compressor.compress(compressor.allocation(levels))


@pytest.mark.parametrize("build", [ResidualParts, Views, Slices])
def test_parts_that_training_leaves_out(build: type[nn.Module]) -> None:
    network = build()
    compressor, small = bind_unequally(network)
    assert {"up.0", "up.1", "up.2"} <= {site.name for site in compressor.sites}
    emptied = empty_removed(network, small).train()
    small.train()
    images = torch.randn(3, *SHAPE)
    for seed in SEEDS:
        torch.manual_seed(seed)
        outputs = small(images)
        torch.manual_seed(seed)
        expected = emptied(images).detach()
        assert torch.allclose(outputs, expected, atol=1e-4 * float(expected.abs().max()))


def test_numbers_that_no_size_tells_keep_their_channels() -> None:
    compressor, _ = bind_unequally(FirstTwelve())
    assert not {"up.0", "up.1", "up.2"} & {site.name for site in compressor.sites}
    reason = f"calls in FirstTwelve.gate ({__name__}) cannot be told apart in another order, and need different numbers"
    assert [compressor.skipped[f"up.{i}"] for i in range(3)] == [reason] * 3

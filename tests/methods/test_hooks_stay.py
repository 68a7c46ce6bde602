"""Forward hooks of a user's on layers that a method replaces: they act as before, on the compressed layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.base import Allocation, example_input
from methods.registry import create
from methods.testing.small_networks import random_batches

SHAPE = (8, 6, 6)
REPLACING = ["svd", "tucker", "kse", "kernel-clustering", "l1+tucker"]


class KeepsFeature:
    """A hook that notes what a layer returns; part of the network, and so copied with it."""

    def __init__(self) -> None:
        self.feature = torch.zeros(())

    def __call__(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self.feature = output


def _shift_input(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0] - 1,)


def _double_output(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return 2 * output


class Hooked(nn.Module):
    """`layer` is called with hooks, or with what they do written out."""

    def __init__(self, *, hooks: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.layer, self.head = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(16, 5)
        self.hooks = hooks
        self.keep = KeepsFeature()
        if hooks:
            self.layer.register_forward_pre_hook(_shift_input)
            self.layer.register_forward_hook(_double_output)
            self.layer.register_forward_hook(self.keep)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        if self.hooks:
            features = self.layer(x)
            kept = self.keep.feature
        else:
            features = kept = 2 * self.layer(x - 1)
        return self.head(torch.cat([features, kept.tanh()], 1).mean((2, 3)))


@pytest.mark.parametrize("method", REPLACING)
def test_hooks_act_on_the_compressed_layer(method: str) -> None:
    """The reference has no hooks, and is given the same compressed layer."""
    x, networks = example_input(SHAPE), []
    for hooks in (True, False):
        compressor = create(method, Hooked(hooks=hooks).eval(), x)
        if method in ("svd", "tucker", "l1+tucker"):
            compressor.calibrate(random_batches(2, shape=SHAPE, classes=5))
        sites = [site for site in compressor.sites if "layer" in site.layers and not site.name.startswith("l1:")]
        allocation = Allocation({site.name: site.settings[-1] for site in sites})
        networks.append(compressor.compress(allocation).eval())
    hooked, reference = networks
    assert type(hooked.layer) is not nn.Conv2d
    reference.layer.load_state_dict(hooked.layer.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(hooked(x), reference(x))

"""Networks whose training fails without channels that evaluation can do without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.graph.channel_sites import ChannelGroups

IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class HoldsWidth(torch.autograd.Function):
    """The identity, whose gradient knows how many channels there were."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient.reshape(len(gradient), 16, 6, 6)


class InBackward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.held, self.last = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.last(HoldsWidth.apply(self.held(self.first(x)))))


class NoiseOfWidth(InBackward):
    def forward(self, x: Tensor) -> Tensor:
        x = self.held(self.first(x))
        if self.training:
            x = x + torch.randn(len(x), 16, 1, 1)
        return torch.as_tensor(self.last(x))


@pytest.mark.parametrize("kind", [InBackward, NoiseOfWidth])
def test_what_does_not_train_without_its_channels_stays_dense(kind: type[nn.Module]) -> None:
    groups = ChannelGroups(kind(), IMAGES)
    assert [group.name for group in groups.groups] == ["first"]
    code = NoiseOfWidth.forward.__code__ if kind is NoiseOfWidth else HoldsWidth.backward.__code__
    line = next(
        line for _, _, line in code.co_lines() if line and "16" in Path(__file__).read_text().splitlines()[line - 1]
    )
    where = f"the network (test_other_paths.py:{line})"
    assert groups.skipped["held"] == f"without its channels, {where} does not run in training"

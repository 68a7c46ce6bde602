"""A small network and its batches, for tests of single steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search.recipe import Recipe

STEPS = 20
RECIPE = Recipe(batch_size=8, lr=0.05, distill_features=3.0)
CPU = torch.device("cpu")
Batch = tuple[Tensor, Tensor]


def small_network() -> nn.Module:
    torch.manual_seed(1)
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1))
    return nn.Sequential(*layers, nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def batches(count: int = STEPS, sizes: tuple[int, ...] = (8,)) -> list[Batch]:
    draw = torch.Generator().manual_seed(2)
    return [
        (torch.randn(size, 3, 8, 8, generator=draw), torch.randint(4, (size,), generator=draw))
        for size in (sizes * count)[:count]
    ]

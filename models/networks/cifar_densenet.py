"""DenseNet-40, growth 12, for 32×32 images (Huang et al. 2017): no bottlenecks, transitions keep every channel.

The first convolution makes 2·growth = 24 channels, as in the networks that pruning papers report on (282.9 M MACs,
1.06 M parameters); the original, with 16, has 1.02 M parameters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROWTH = 12
LAYERS = 12  # per block: (40 - 4) / 3


class DenseLayer(nn.Module):
    """Batch norm, ReLU, 3×3 convolution; its output is appended to its input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.bn(x)))], 1)


class Transition(nn.Module):
    """Batch norm, ReLU, 1×1 convolution, 2×2 mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)


class CifarDenseNet(nn.Module):
    """Three dense blocks with two transitions between them."""

    def __init__(self, *, classes: int, channels: int) -> None:
        super().__init__()
        width = 2 * GROWTH
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.block1, width = self._dense_block(width)
        self.transition1 = Transition(width)
        self.block2, width = self._dense_block(width)
        self.transition2 = Transition(width)
        self.block3, width = self._dense_block(width)
        self.bn = nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _dense_block(width: int) -> tuple[nn.Sequential, int]:
        layers = [DenseLayer(width + i * GROWTH, GROWTH) for i in range(LAYERS)]
        return nn.Sequential(*layers), width + LAYERS * GROWTH

    def forward(self, x: Tensor) -> Tensor:
        x = self.transition1(self.block1(self.conv1(x)))
        x = self.block3(self.transition2(self.block2(x)))
        return self.linear(F.adaptive_avg_pool2d(F.relu(self.bn(x)), 1).flatten(1))

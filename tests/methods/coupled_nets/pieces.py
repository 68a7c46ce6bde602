"""What the small networks are put together from; images (3, 8, 8), 7 classes."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

SHAPE = (3, 8, 8)
CLASSES = 7


class Pieces(nn.Module):
    """Named modules and a forward pass given as a function of the network and the images."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor], **modules: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self._run = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._run(self, x)


def conv(inputs: int, outputs: int, kernel: int = 3, **options: object) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)  # type: ignore[arg-type]


def pool_mean(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1).flatten(1)

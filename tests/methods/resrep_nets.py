"""Small networks of every kind that ResRep treats differently."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Unit(nn.Sequential):
    """Convolution, norm, activation."""

    def __init__(self, c: int, n: int, kernel: int = 3, *, bias: bool = False, **options: int) -> None:
        padding = options.get("dilation", 1) * (kernel // 2)
        super().__init__(
            nn.Conv2d(c, n, kernel, padding=padding, bias=bias, **options), nn.BatchNorm2d(n), nn.ReLU(inplace=True)
        )


class Plain(nn.Sequential):
    """Strided, dilated, biased, with a norm and without."""

    def __init__(self) -> None:
        super().__init__(
            Unit(3, 8, bias=True),
            Unit(8, 10, dilation=2),
            nn.Conv2d(10, 7, (3, 1), bias=True),
            nn.ReLU(),
            nn.Conv2d(7, 9, 3, stride=2, bias=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(9 * 3 * 4, 5),
        )


class Block(nn.Module):
    def __init__(self, c: int, n: int, stride: int) -> None:
        super().__init__()
        self.first = Unit(c, n, stride=stride)
        self.second = nn.Sequential(nn.Conv2d(n, n, 3, padding=1, bias=False), nn.BatchNorm2d(n))
        self.shortcut: nn.Module = nn.Identity()
        if c != n:
            self.shortcut = nn.Sequential(nn.Conv2d(c, n, 1, stride, bias=False), nn.BatchNorm2d(n))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


class Headed(nn.Module):
    """A body, mean pooling, a linear layer."""

    def __init__(self, body: nn.Module, channels: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class DenseLayer(nn.Module):
    """Norm first; what it makes is joined to what it read."""

    def __init__(self, c: int, growth: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(c), nn.Conv2d(c, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


def residual_network() -> nn.Module:
    return Headed(nn.Sequential(Unit(3, 6), Block(6, 6, 1), Block(6, 9, 2), Block(9, 9, 1)), 9)


def depthwise_network() -> nn.Module:
    return Headed(nn.Sequential(Unit(3, 6), Unit(6, 9, 1), Unit(9, 9, groups=9), Unit(9, 8, 1)), 8)


def joined_network() -> nn.Module:
    body = [nn.Conv2d(3, 6, 3, bias=False), DenseLayer(6, 4), DenseLayer(10, 4), nn.BatchNorm2d(14), nn.ReLU()]
    return Headed(nn.Sequential(*body), 14)


def pointwise_network() -> nn.Module:
    return Headed(nn.Sequential(Unit(3, 12, 1), Unit(12, 6, 1), Unit(6, 6), Unit(6, 12, 1, bias=True)), 12)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "residual": residual_network,
    "depthwise": depthwise_network,
    "joined": joined_network,
    "pointwise": pointwise_network,
}


def build_network(kind: str) -> nn.Module:
    """A network whose norms look as if they had been trained."""
    torch.manual_seed(0)
    network = NETWORKS[kind]()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
    return network.eval()

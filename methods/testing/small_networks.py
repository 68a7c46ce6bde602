"""Small networks with the common ways in which layers are coupled; inputs are (B, 3, 12, 12)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHAPE = (3, 12, 12)
CLASSES = 5


def conv_unit(inputs: int, outputs: int, size: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Pooled(nn.Module):
    """Layers in a row, then the mean over positions, then a linear layer."""

    def __init__(self, channels: int, *layers: nn.Module) -> None:
        """`channels`: those of the last layer."""
        super().__init__()
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_unit(inputs, outputs, stride=stride), conv_unit(outputs, outputs)[:2])
        self.shortcut = nn.Identity() if inputs == outputs else conv_unit(inputs, outputs, 1, stride=stride)[:2]

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class Concat(nn.Module):
    """A dense connection: the input and new channels, concatenated."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.grow = conv_unit(inputs, growth)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.grow(x)], 1)


def plain_network() -> nn.Module:
    # A bias, a stride, a dilation and a kernel that is not square.
    oblong = nn.Sequential(nn.Conv2d(16, 16, (3, 1), padding=(1, 0)), nn.BatchNorm2d(16), nn.ReLU())
    dilated = nn.Sequential(nn.Conv2d(16, 24, 3, 2, padding=2, dilation=2), nn.BatchNorm2d(24), nn.ReLU())
    return Pooled(24, conv_unit(3, 12), conv_unit(12, 16), oblong, dilated)


def residual_network() -> nn.Module:
    return Pooled(16, conv_unit(3, 12), Residual(12, 12), Residual(12, 16, 2))


def concat_network() -> nn.Module:
    return Pooled(16, conv_unit(3, 10), Concat(10, 8), Concat(18, 8), conv_unit(26, 16, 1))


def depthwise_network() -> nn.Module:
    layers = (conv_unit(3, 16), conv_unit(16, 16, groups=16), conv_unit(16, 24, 1), conv_unit(24, 24, groups=2))
    return Pooled(24, *layers)


def pointwise_network() -> nn.Module:
    sizes = ((3, 16, 3), (16, 12, 1), (12, 12, 3), (12, 32, 1), (32, 16, 1))
    return Pooled(16, *(conv_unit(*size) for size in sizes))


_BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "plain": plain_network,
    "residual": residual_network,
    "concat": concat_network,
    "depthwise": depthwise_network,
    "pointwise": pointwise_network,
}


NETWORKS = tuple(sorted(_BUILDERS))


def small_network(name: str, seed: int = 0) -> nn.Module:
    """The network with seeded weights, scales and statistics that differ between channels, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = _BUILDERS[name]()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
                assert module.running_mean is not None
                assert module.running_var is not None
                nn.init.normal_(module.running_mean, std=0.2)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
            if isinstance(module, nn.Conv2d):
                # Input channels differ in strength, as KSE would otherwise grade all alike.
                module.weight.data *= torch.linspace(0.3, 2.0, module.weight.shape[1])[:, None, None]
    return network.eval()


def random_batches(
    count: int, size: int = 8, seed: int = 0, shape: tuple[int, int, int] = SHAPE, classes: int = CLASSES
) -> list[tuple[Tensor, Tensor]]:
    """`count` batches of `size` random inputs and labels."""
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(size, *shape, generator=generator), torch.randint(classes, (size,), generator=generator))
            for _ in range(count)]  # fmt: skip

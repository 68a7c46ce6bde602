"""Small networks with the common ways in which layers are coupled, for images, signals and clips."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.graph.narrow import Conv

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
        return self.linear(self.features(x).flatten(2).mean(2))


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


class Skip(nn.Module):
    """A U-Net of one level: what goes down and up again is concatenated with what did not."""

    def __init__(self, inputs: int, down: nn.Module, up: nn.Module) -> None:
        super().__init__()
        self.stem = conv_unit(3, inputs)
        self.down, self.up = down, up

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return torch.cat([x, self.up(self.down(x))], 1)


def normed(layer: Conv) -> nn.Sequential:
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[len(layer.kernel_size) - 1]
    return nn.Sequential(layer, norm(layer.out_channels), nn.ReLU())


def transposed_network() -> nn.Module:
    up = nn.Sequential(
        normed(nn.ConvTranspose2d(16, 16, 3, 2, 1, output_padding=1, bias=False)),
        normed(nn.ConvTranspose2d(16, 16, 3, padding=1, groups=16)),
        nn.ConvTranspose2d(16, 12, 3, padding=2, dilation=2, groups=2),
    )
    return Pooled(16, Skip(10, conv_unit(10, 16, stride=2), up), conv_unit(22, 16))


def signal_network() -> nn.Module:
    return Pooled(
        16,
        normed(nn.Conv1d(3, 12, 7, stride=2, padding=3, bias=False)),
        normed(nn.Conv1d(12, 16, 3, padding=2, dilation=2)),
        normed(nn.Conv1d(16, 16, 3, padding=1, groups=16)),
        normed(nn.ConvTranspose1d(16, 12, 4, 2)),
        normed(nn.Conv1d(12, 16, 3)),
    )


def clip_network() -> nn.Module:
    return Pooled(
        12,
        normed(nn.Conv3d(3, 8, 3, (1, 2, 2), 1, bias=False)),
        normed(nn.Conv3d(8, 12, (1, 3, 3), padding=(0, 1, 1))),
        normed(nn.Conv3d(12, 12, (3, 1, 1), padding=(1, 0, 0), groups=2)),
        normed(nn.ConvTranspose3d(12, 8, 2, 2)),
        normed(nn.Conv3d(8, 12, 3)),
    )


_BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "plain": plain_network,
    "residual": residual_network,
    "concat": concat_network,
    "depthwise": depthwise_network,
    "pointwise": pointwise_network,
    "transposed": transposed_network,
    "signal": signal_network,
    "clip": clip_network,
}
_SHAPES = {"signal": (3, 32), "clip": (3, 4, 8, 8)}


NETWORKS = tuple(sorted(_BUILDERS))


def input_shape(name: str) -> tuple[int, ...]:
    """What one input of a network looks like."""
    return _SHAPES.get(name, SHAPE)


def small_network(name: str, seed: int = 0) -> nn.Module:
    """The network with seeded weights, scales and statistics that differ between channels, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = _BUILDERS[name]()
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
                assert module.running_mean is not None
                assert module.running_var is not None
                nn.init.normal_(module.running_mean, std=0.2)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
            if isinstance(module, Conv):
                # Input channels differ in strength, as KSE would otherwise grade all alike.
                weight = module.weight.data.movedim(0 if module.transposed else 1, -1)
                weight *= torch.linspace(0.3, 2.0, weight.shape[-1])
    return network.eval()


def random_batches(
    count: int, size: int = 8, seed: int = 0, shape: tuple[int, ...] = SHAPE, classes: int = CLASSES
) -> list[tuple[Tensor, Tensor]]:
    """`count` batches of `size` random inputs and labels."""
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(size, *shape, generator=generator), torch.randint(classes, (size,), generator=generator))
            for _ in range(count)]  # fmt: skip

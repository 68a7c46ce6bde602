"""Networks whose paths part or meet: sums, concatenations, gates, attention."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coupled_nets.pieces import CLASSES, Pieces, conv, pool_mean


def residual() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x))
        return n.fc(pool_mean(F.relu(x + n.bn2(n.c2(F.relu(n.bn1(n.c1(x))))))))

    return Pieces(
        run_net, stem=conv(3, 8), c1=conv(8, 6), bn1=nn.BatchNorm2d(6), c2=conv(6, 8), bn2=nn.BatchNorm2d(8),
        fc=nn.Linear(8, CLASSES),
    )  # fmt: skip


def projection() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x))
        return n.fc(pool_mean(F.relu(n.short(x) + n.c2(F.relu(n.c1(x))))))

    return Pieces(
        run_net, stem=conv(3, 8), c1=conv(8, 6, stride=2), c2=conv(6, 10), short=conv(8, 10, 1, stride=2),
        fc=nn.Linear(10, CLASSES),
    )  # fmt: skip


def dense_connected() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = n.stem(x)
        x = torch.cat([x, n.c1(F.relu(n.bn1(x)))], 1)
        x = torch.cat([x, n.c2(F.relu(n.bn2(x)))], 1)
        return n.fc(pool_mean(F.relu(n.bn3(x))))

    return Pieces(
        run_net, stem=conv(3, 6), bn1=nn.BatchNorm2d(6), c1=conv(6, 4), bn2=nn.BatchNorm2d(10), c2=conv(10, 4),
        bn3=nn.BatchNorm2d(14), fc=nn.Linear(14, CLASSES),
    )  # fmt: skip


class LambdaLayer(nn.Module):
    """As in the code that CIFAR checkpoints in the wild come with."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def option_a() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x))
        x = F.relu(n.c2(F.relu(n.c1(x))) + x)
        return n.fc(pool_mean(F.relu(n.c4(F.relu(n.c3(x))) + n.short(x))))

    short = LambdaLayer(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2), "constant", 0))
    return Pieces(
        run_net, stem=conv(3, 8), c1=conv(8, 6), c2=conv(6, 8), c3=conv(8, 10, stride=2), c4=conv(10, 12), short=short,
        fc=nn.Linear(12, CLASSES),
    )  # fmt: skip


def squeeze_excite() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.silu(n.stem(x))
        x = x * torch.sigmoid(n.up(F.relu(n.down(F.adaptive_avg_pool2d(x, 1)))))
        return n.fc(pool_mean(F.relu(n.after(x))))

    return Pieces(
        run_net, stem=conv(3, 8), down=conv(8, 4, 1), up=conv(4, 8, 1), after=conv(8, 6), fc=nn.Linear(6, CLASSES)
    )  # fmt: skip


def squeeze_excite_linear() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x))
        gate = torch.sigmoid(n.up(F.relu(n.down(x.mean((2, 3))))))
        return n.fc(pool_mean(F.relu(n.after(x * gate[:, :, None, None]))))

    return Pieces(
        run_net, stem=conv(3, 8), down=nn.Linear(8, 4), up=nn.Linear(4, 8), after=conv(8, 6), fc=nn.Linear(6, CLASSES)
    )  # fmt: skip


def halves() -> nn.Module:
    """The first half gates the second."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        first, second = n.c1(x).chunk(2, 1)
        return n.fc(pool_mean(F.relu(n.after(first * torch.sigmoid(second)))))

    return Pieces(run_net, c1=conv(3, 12), after=conv(6, 8), fc=nn.Linear(8, CLASSES))


def split_paths() -> nn.Module:
    """Unequal parts go their own ways."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        first, second = torch.split(F.relu(n.c1(x)), [4, 8], 1)
        return n.fc(pool_mean(F.relu(n.left(first)) + F.relu(n.right(second))))

    return Pieces(run_net, c1=conv(3, 12), left=conv(4, 6), right=conv(8, 6), fc=nn.Linear(6, CLASSES))


def product() -> nn.Module:
    """Two branches multiplied; and a broadcast over channels."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.a(x)) * F.relu(n.b(x)) * torch.sigmoid(n.mask(x))
        return n.fc(pool_mean(F.relu(n.after(x))))

    return Pieces(
        run_net, a=conv(3, 8), b=conv(3, 8, 1), mask=conv(3, 1), after=conv(8, 6), fc=nn.Linear(6, CLASSES)
    )  # fmt: skip


def concat() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return n.fc(pool_mean(F.relu(n.after(F.relu(n.bn(torch.cat([n.a(x), n.b(x), x], 1)))))))

    return Pieces(
        run_net, a=conv(3, 6), b=conv(3, 4, 1), bn=nn.BatchNorm2d(13), after=conv(13, 8), fc=nn.Linear(8, CLASSES)
    )  # fmt: skip


def concat_of_branches() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x))
        x = torch.cat([n.a(x), F.max_pool2d(x, 3, 1, 1), n.b(x)], 1)
        return n.fc(pool_mean(F.relu(n.after(F.relu(n.bn(x))))))

    return Pieces(
        run_net, stem=conv(3, 5), a=conv(5, 6), b=conv(5, 4, 1), bn=nn.BatchNorm2d(15), after=conv(15, 8),
        fc=nn.Linear(8, CLASSES),
    )  # fmt: skip


def concat_then_flatten() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(torch.cat([n.a(x), n.b(x)], 1))
        return n.fc(F.adaptive_avg_pool2d(x, 2).flatten(1))

    return Pieces(run_net, a=conv(3, 6), b=conv(3, 4, 1), fc=nn.Linear(40, CLASSES))


def output_is_sum() -> nn.Module:
    """The classifier is a convolution, and a skip reaches the output."""
    return Pieces(
        lambda n, x: pool_mean(n.head(F.relu(n.c1(x))) + n.skip(x)), c1=conv(3, 8), head=conv(8, CLASSES, 1),
        skip=conv(3, CLASSES, 1),
    )  # fmt: skip


def convnext() -> nn.Module:
    """A block of ConvNeXt: depthwise, layer norm with channels last, linear layers, layer scale."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = n.stem(x)
        y = n.norm(n.dw(x).permute(0, 2, 3, 1))
        y = n.narrow(F.gelu(n.wide(y))).permute(0, 3, 1, 2)
        return n.fc(pool_mean(x + n.scale * y))

    return Pieces(
        run_net, stem=conv(3, 8), dw=conv(8, 8, groups=8), norm=nn.LayerNorm(8), wide=nn.Linear(8, 16),
        narrow=nn.Linear(16, 8), scale=nn.Parameter(torch.ones(8, 1, 1)), fc=nn.Linear(8, CLASSES),
    )  # fmt: skip


def attention() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x)).flatten(2).transpose(1, 2)
        x = x + n.attention(x, x, x)[0]
        return n.fc(F.relu(n.wide(x)).mean(1))

    return Pieces(
        run_net, stem=conv(3, 8, stride=2), attention=nn.MultiheadAttention(8, 2, batch_first=True),
        wide=nn.Linear(8, 12), fc=nn.Linear(12, CLASSES),
    )  # fmt: skip

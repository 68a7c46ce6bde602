"""Networks with depthwise and grouped convolutions, or with channels shuffled between groups."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coupled_nets.pieces import CLASSES, Pieces, conv, pool_mean


def depthwise() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu6(n.bn(n.dw(F.relu6(n.expand(x)))))
        return n.fc(pool_mean(F.relu(n.project(x))))

    return Pieces(
        run_net, expand=conv(3, 8, 1), dw=conv(8, 8, groups=8, stride=2), bn=nn.BatchNorm2d(8), project=conv(8, 6, 1),
        fc=nn.Linear(6, CLASSES),
    )  # fmt: skip


def grouped() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.bn(n.grouped(F.relu(n.before(x)))))
        return n.fc(pool_mean(F.relu(n.after(x))))

    return Pieces(
        run_net, before=conv(3, 12), grouped=conv(12, 18, groups=3), bn=nn.BatchNorm2d(18), after=conv(18, 8),
        fc=nn.Linear(8, CLASSES),
    )  # fmt: skip


def transposed_in_groups() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(pool_mean(F.relu(n.after(F.relu(n.up(F.relu(n.before(x)))))))),
        before=conv(3, 12), up=nn.ConvTranspose2d(12, 9, 2, 2, groups=3), after=conv(9, 8), fc=nn.Linear(8, CLASSES),
    )  # fmt: skip


def grouped_after_concat() -> nn.Module:
    """Each group of the convolution is fed by a branch of its own."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(torch.cat([n.a(n.stem(x)), n.b(n.stem(x))], 1))
        return n.fc(pool_mean(F.relu(n.grouped(x))))

    return Pieces(
        run_net, stem=conv(3, 4), a=conv(4, 6), b=conv(4, 6, 1), grouped=conv(12, 8, groups=2), fc=nn.Linear(8, CLASSES)
    )  # fmt: skip


def depth_multiplier() -> nn.Module:
    """A grouped convolution that makes two channels of each."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return n.fc(pool_mean(F.relu(n.after(F.relu(n.twice(F.relu(n.stem(x))))))))

    return Pieces(
        run_net, stem=conv(3, 6), twice=conv(6, 12, groups=6), after=conv(12, 8), fc=nn.Linear(8, CLASSES)
    )  # fmt: skip


def residual_grouped() -> nn.Module:
    """A grouped convolution inside a residual block, one group norm around it."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x))
        x = x + n.c2(F.relu(n.gn(n.c1(x))))
        return n.fc(pool_mean(F.relu(x)))

    return Pieces(
        run_net, stem=conv(3, 8), c1=conv(8, 12, groups=2), gn=nn.GroupNorm(3, 12), c2=conv(12, 8, groups=4),
        fc=nn.Linear(8, CLASSES),
    )  # fmt: skip


def shuffle() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x))
        first, second = torch.split(x, 6, 1)
        x = torch.cat([first, F.relu(n.branch(second))], 1)
        b, c, h, w = x.shape
        x = x.reshape(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return n.fc(pool_mean(F.relu(n.after(x))))

    return Pieces(run_net, stem=conv(3, 12), branch=conv(6, 6), after=conv(12, 8), fc=nn.Linear(8, CLASSES))


def shuffle_unit() -> nn.Module:
    """ShuffleNet's unit: what the shuffle brings together goes to two groups of the last convolution at times."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x))
        hidden = F.relu(n.first(x)).unflatten(1, (3, -1)).transpose(1, 2).flatten(1, 2)
        return n.fc(pool_mean(F.relu(x + n.last(n.dw(hidden)))))

    return Pieces(
        run_net, stem=conv(3, 6), first=conv(6, 30, 1, groups=3), dw=conv(30, 30, groups=30),
        last=conv(30, 6, 1, groups=3), fc=nn.Linear(6, CLASSES),
    )  # fmt: skip


def grown_stream() -> nn.Module:
    """A residual stream of two layers' channels, which a grouped convolution reads and writes in other parts."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x))
        x = F.relu(torch.cat([n.wide(x), x], 1))
        return n.fc(pool_mean(F.relu(x + n.mix(x))))

    return Pieces(run_net, stem=conv(3, 5), wide=conv(5, 10), mix=conv(15, 15, 1, groups=3), fc=nn.Linear(15, CLASSES))

"""Networks of one path: the kinds of layers, norms and activations that a channel can pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coupled_nets.pieces import CLASSES, Pieces, conv, pool_mean


def plain() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(pool_mean(F.relu(n.bn2(n.c2(F.relu(n.bn1(n.c1(x)))))))),
        c1=conv(3, 8), bn1=nn.BatchNorm2d(8), c2=conv(8, 12), bn2=nn.BatchNorm2d(12), fc=nn.Linear(12, CLASSES),
    )  # fmt: skip


def without_norm() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(pool_mean(F.relu(n.c2(F.relu(n.c1(x)))))),
        c1=conv(3, 8), c2=conv(8, 12), fc=nn.Linear(12, CLASSES),
    )  # fmt: skip


def flatten() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(n.c2(F.relu(n.c1(x)))), 4)  # (N, 6, 2, 2)
        return n.fc2(F.relu(n.fc1(x.flatten(1))))

    return Pieces(run_net, c1=conv(3, 8), c2=conv(8, 6), fc1=nn.Linear(24, 10), fc2=nn.Linear(10, CLASSES))


def group_norm() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(pool_mean(F.relu(n.c2(F.relu(n.gn(n.c1(x))))))),
        c1=conv(3, 12), gn=nn.GroupNorm(3, 12), c2=conv(12, 8), fc=nn.Linear(8, CLASSES),
    )  # fmt: skip


def instance_norm() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(pool_mean(F.relu(n.c2(F.relu(n.norm(n.c1(x))))))),
        c1=conv(3, 8), norm=nn.InstanceNorm2d(8, affine=True, track_running_stats=True), c2=conv(8, 12),
        fc=nn.Linear(12, CLASSES),
    )  # fmt: skip


def norm_without_weights() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(pool_mean(F.relu(n.c2(F.relu(n.norm(n.c1(x))))))),
        c1=conv(3, 8), norm=nn.BatchNorm2d(8, affine=False), c2=conv(8, 12), fc=nn.Linear(12, CLASSES),
    )  # fmt: skip


def prelu() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(pool_mean(n.one(n.c2(n.many(n.c1(x)))))),
        c1=conv(3, 8), many=nn.PReLU(8), c2=conv(8, 6), one=nn.PReLU(), fc=nn.Linear(6, CLASSES),
    )  # fmt: skip


def folded_patches() -> nn.Module:
    """Linear layers on patches that overlap, which are added up to an image again."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.c1(x))
        patches = F.unfold(x, 4, padding=1, stride=2).transpose(1, 2)
        y = F.fold(n.back(F.relu(n.mix(patches))).transpose(1, 2), x.shape[-2:], 4, padding=1, stride=2)
        return n.fc(pool_mean(F.relu(n.c2(x + y))))

    return Pieces(
        run_net, c1=conv(3, 6), mix=nn.Linear(6 * 16, 10), back=nn.Linear(10, 6 * 16), c2=conv(6, 8),
        fc=nn.Linear(8, CLASSES),
    )  # fmt: skip


def transposed() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(pool_mean(F.relu(n.c2(F.relu(n.up(F.relu(n.c1(x)))))))),
        c1=conv(3, 8), up=nn.ConvTranspose2d(8, 6, 2, 2), c2=conv(6, 10), fc=nn.Linear(10, CLASSES),
    )  # fmt: skip


def odd_kernels() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(pool_mean(F.relu(n.c3(F.relu(n.c2(F.relu(n.c1(x)))))))),
        c1=nn.Conv2d(3, 8, (1, 5), padding=(0, 1)), c2=nn.Conv2d(8, 6, 3, padding=2, dilation=2),
        c3=nn.Conv2d(6, 10, (3, 1), stride=(2, 1)), fc=nn.Linear(10, CLASSES),
    )  # fmt: skip


def only_linear() -> nn.Module:
    return Pieces(
        lambda n, x: n.c(F.relu(n.b(F.relu(n.a(x.flatten(1)))))),
        a=nn.Linear(192, 10), b=nn.Linear(10, 8), c=nn.Linear(8, CLASSES),
    )  # fmt: skip


def bare_parameters() -> nn.Module:
    """A scale per channel, and a bias map added to all of them."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.c1(x)) * n.scale + n.place
        return n.fc(pool_mean(F.relu(n.c2(x))))

    return Pieces(
        run_net, c1=conv(3, 8), scale=nn.Parameter(torch.ones(1, 8, 1, 1)), place=nn.Parameter(torch.zeros(1, 1, 8, 8)),
        c2=conv(8, 12), fc=nn.Linear(12, CLASSES),
    )  # fmt: skip


def weight_normed() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(pool_mean(F.relu(n.c2(F.relu(n.c1(x)))))),
        c1=nn.utils.parametrizations.weight_norm(conv(3, 8)), c2=conv(8, 12), fc=nn.Linear(12, CLASSES),
    )  # fmt: skip


def recurrent() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x)).flatten(2).transpose(1, 2)
        return n.fc(n.cell(x)[0][:, -1])

    return Pieces(run_net, stem=conv(3, 8), cell=nn.LSTM(8, 6, batch_first=True), fc=nn.Linear(6, CLASSES))


def unused_layer() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(pool_mean(F.relu(n.c1(x)))),
        c1=conv(3, 8), idle=conv(8, 8), fc=nn.Linear(8, CLASSES),
    )  # fmt: skip

"""Networks whose forward pass counts on a number of channels, in ways that no layer shows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coupled_nets.pieces import CLASSES, Pieces, conv, pool_mean


def hard_coded_view() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(F.adaptive_avg_pool2d(F.relu(n.c2(F.relu(n.c1(x)))), 1).view(-1, 12)),
        c1=conv(3, 8), c2=conv(8, 12), fc=nn.Linear(12, CLASSES),
    )  # fmt: skip


def checks_its_width() -> nn.Module:
    """Nothing a graph could show: the forward pass itself insists on a width."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.c1(x))
        if x.shape[1] != 8:
            raise ValueError("eight channels were promised")
        return n.fc(pool_mean(F.relu(n.c2(x))))

    return Pieces(run_net, c1=conv(3, 8), c2=conv(8, 12), fc=nn.Linear(12, CLASSES))


def depends_on_width() -> nn.Module:
    """Runs at every width but computes something else: a sum over channels scaled by their number."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.c1(x))
        return n.fc(pool_mean(F.relu(n.c2(x * (x.shape[1] / 8) ** 2))))

    return Pieces(run_net, c1=conv(3, 8), c2=conv(8, 12), fc=nn.Linear(12, CLASSES))


def picks_channels() -> nn.Module:
    """Channels picked by number, out of order."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.c1(x))[:, [5, 0, 3, 2]]
        return n.fc(pool_mean(F.relu(n.c2(x))))

    return Pieces(run_net, c1=conv(3, 8), c2=conv(4, 12), fc=nn.Linear(12, CLASSES))


def mean_over_channels() -> nn.Module:
    """Attention over places from the mean over channels (CBAM); the channels that remain have a mean of their own."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.c1(x))
        x = x * torch.sigmoid(n.place(x.mean(1, keepdim=True)))
        return n.fc(pool_mean(F.relu(n.c2(x.softmax(1)))))

    return Pieces(run_net, c1=conv(3, 8), place=conv(1, 1), c2=conv(8, 6), fc=nn.Linear(6, CLASSES))


def median_over_channels() -> nn.Module:
    """Attention over places from the median over channels, which is one of them."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.c1(x))
        x = x * torch.sigmoid(n.place(x.median(1, keepdim=True)[0]))
        return n.fc(pool_mean(F.relu(n.c2(x))))

    return Pieces(run_net, c1=conv(3, 8), place=conv(1, 1), c2=conv(8, 6), fc=nn.Linear(6, CLASSES))


def pixel_shuffle() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(pool_mean(F.relu(n.c2(F.pixel_shuffle(F.relu(n.c1(x)), 2))))),
        c1=conv(3, 8), c2=conv(2, 6), fc=nn.Linear(6, CLASSES),
    )  # fmt: skip


def writes_into_zeros() -> nn.Module:
    """Channels of two layers are written into a tensor whose width the code names."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        both = torch.zeros(len(x), 14, *x.shape[2:])
        both[:, :8] = F.relu(n.c1(x))
        both[:, 8:] = n.c2(x)
        return n.fc(pool_mean(F.relu(n.c3(both * torch.full((14, 1, 1), 2.0)))))

    return Pieces(run_net, c1=conv(3, 8), c2=conv(3, 6), c3=conv(14, 6), fc=nn.Linear(6, CLASSES))


def pads_with_zeros() -> nn.Module:
    """A shortcut is padded by as many channels as the code names; those of the layer beside it may go as well."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.c1(x))
        padded = torch.cat([x, x.new_zeros(len(x), 4, *x.shape[2:])], 1)
        return n.fc(pool_mean(F.relu(n.c2(x) + padded)))

    return Pieces(run_net, c1=conv(3, 8), c2=conv(8, 12), fc=nn.Linear(12, CLASSES))

"""Networks that use one layer, or one weight, more than once."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from coupled_nets.pieces import CLASSES, Pieces, conv, pool_mean


def shared() -> nn.Module:
    """One convolution applied twice, to its own output."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x))
        return n.fc(pool_mean(F.relu(n.again(F.relu(n.again(x))))))

    return Pieces(run_net, stem=conv(3, 8), again=conv(8, 8), fc=nn.Linear(8, CLASSES))


def shared_on_two_inputs() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return n.fc(pool_mean(F.relu(n.head(F.relu(n.a(x)))) + F.relu(n.head(F.relu(n.b(x))))))

    return Pieces(run_net, a=conv(3, 8), b=conv(3, 8, 1), head=conv(8, 6), fc=nn.Linear(6, CLASSES))


def tied() -> nn.Module:
    """Two modules with one parameter."""
    network = Pieces(
        lambda n, x: n.fc(pool_mean(F.relu(n.b(F.relu(n.a(F.relu(n.stem(x)))))))),
        stem=conv(3, 8), a=conv(8, 8), b=conv(8, 8), fc=nn.Linear(8, CLASSES),
    )  # fmt: skip
    network.b.weight = network.a.weight
    return network


def alias() -> nn.Module:
    """One module under two names."""
    network = Pieces(
        lambda n, x: n.fc(pool_mean(F.relu(n.b(F.relu(n.a(F.relu(n.stem(x)))))))),
        stem=conv(3, 8), a=conv(8, 8), fc=nn.Linear(8, CLASSES),
    )  # fmt: skip
    network.b = network.a
    return network

"""Networks whose weights are applied in every form: along positions, bare, in banks, in parts, made of others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coupled_nets.pieces import Pieces


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * 0.3)


def end(n: nn.Module, x: Tensor) -> Tensor:
    """The head, on the mean over positions."""
    return n.head(torch.relu(x).mean((2, 3)))


def along_rows() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return end(n, n.last(torch.relu(n.rows(n.stem(x).transpose(2, 3)))))

    return Pieces(run_net, stem=nn.Conv2d(3, 12, 1), rows=nn.Linear(8, 8), last=nn.Conv2d(12, 16, 3),
                  head=nn.Linear(16, 4))  # fmt: skip


def folded_into_batch() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = torch.relu(n.stem(x))
        folded = n.each(x.reshape(x.shape[0] * x.shape[1], 1, 8, 8))
        return end(n, n.last(folded.view(x.shape[0], x.shape[1], 4, 4)))

    return Pieces(run_net, stem=nn.Conv2d(3, 12, 3, padding=1), each=nn.Conv2d(1, 1, 3, 2, 1),
                  last=nn.Conv2d(12, 8, 3), head=nn.Linear(8, 4))  # fmt: skip


def mixer() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = n.stem(x).flatten(2).mT
        x = x + n.tokens_back(F.gelu(n.tokens(x.mT))).mT
        return n.head((x + n.back(F.gelu(n.wide(x)))).mean(1))

    return Pieces(run_net, stem=nn.Conv2d(3, 12, 2, 2), tokens=nn.Linear(16, 10), tokens_back=nn.Linear(10, 16),
                  wide=nn.Linear(12, 20), back=nn.Linear(20, 12), head=nn.Linear(12, 4))  # fmt: skip


def rows_of_channels() -> nn.Module:
    """Channels and rows are one dimension of positions."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = torch.relu(n.stem(x))
        return end(n, n.last(n.rows(x.flatten(1, 2)).view(x.shape)))

    return Pieces(run_net, stem=nn.Conv2d(3, 12, 1), rows=nn.Linear(8, 8), last=nn.Conv2d(12, 16, 3),
                  head=nn.Linear(16, 4))  # fmt: skip


def on_the_right() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return n.head(torch.relu(torch.relu(n.stem(x)).mean((2, 3)) @ n.wide) @ n.back)

    return Pieces(run_net, stem=nn.Conv2d(3, 12, 1), wide=parameter(12, 20), back=parameter(20, 8),
                  head=nn.Linear(8, 4))  # fmt: skip


def on_the_left() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return n.head((n.back @ torch.relu(n.wide @ torch.relu(n.stem(x)).mean((2, 3)).T)).T)

    return Pieces(run_net, stem=nn.Conv2d(3, 12, 1), wide=parameter(20, 12), back=parameter(8, 20),
                  head=nn.Linear(8, 4))  # fmt: skip


def einsum() -> nn.Module:
    """Over a single channel, einsum multiplies element by element: two channels stay."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = torch.relu(torch.einsum("bchw,dc->bdhw", torch.relu(n.stem(x)), n.wide))
        return end(n, torch.einsum("bchw,cd->bdhw", x, n.back))

    return Pieces(run_net, stem=nn.Conv2d(3, 12, 1), wide=parameter(20, 12), back=parameter(20, 8),
                  head=nn.Linear(8, 4))  # fmt: skip


def bank_of_heads() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = torch.relu(n.stem(x)).flatten(2).mT.unflatten(2, (4, -1))
        x = torch.relu(torch.einsum("bthd,hde->bthe", x, n.bank)).flatten(2)
        return n.head(torch.relu(n.last(x)).mean(1))

    return Pieces(run_net, stem=nn.Conv2d(3, 24, 1), bank=parameter(4, 6, 10), last=nn.Linear(40, 16),
                  head=nn.Linear(16, 4))  # fmt: skip


def bank_of_experts() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = torch.relu(n.stem(x)).flatten(2).mT
        y = torch.bmm(torch.relu(torch.bmm(x.flatten(0, 1).expand(3, -1, -1), n.wide)), n.back).sum(0)
        return n.head(y.unflatten(0, x.shape[:2]).mean(1))

    return Pieces(run_net, stem=nn.Conv2d(3, 12, 1), wide=parameter(3, 12, 20), back=parameter(3, 20, 8),
                  head=nn.Linear(8, 4))  # fmt: skip


def functional_transposed() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = torch.relu(F.conv2d(torch.relu(n.stem(x)), n.kernel))
        return end(n, F.conv_transpose2d(x, n.up, stride=2))

    return Pieces(run_net, stem=nn.Conv2d(3, 12, 1), kernel=parameter(10, 12, 3, 3), up=parameter(10, 8, 2, 2),
                  head=nn.Linear(8, 4))  # fmt: skip


def low_rank() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return n.head(torch.relu(F.linear(torch.relu(n.stem(x)).mean((2, 3)), n.up @ n.down)))

    return Pieces(run_net, stem=nn.Conv2d(3, 12, 1), down=parameter(6, 12), up=parameter(20, 6), head=nn.Linear(20, 4))


def low_rank_beside_a_layer() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        weight = n.base.weight + n.up @ n.down
        return n.head(torch.relu(F.linear(torch.relu(n.stem(x)).mean((2, 3)), weight)))

    return Pieces(run_net, stem=nn.Conv2d(3, 12, 1), base=nn.Linear(12, 20, bias=False), down=parameter(6, 12),
                  up=parameter(20, 6), head=nn.Linear(20, 4))  # fmt: skip


def scaled_weights() -> nn.Module:
    """By a number, by a tensor that is not registered, and by a parameter."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return end(n, F.conv2d(torch.relu(F.conv2d(x, n.first * 0.2 * n.gain)), n.scale * n.second))

    network = Pieces(run_net, first=parameter(12, 3, 3, 3), second=parameter(8, 12, 3, 3), scale=parameter(8, 1, 1, 1),
                     head=nn.Linear(8, 4))  # fmt: skip
    network.gain = torch.tensor(0.7)
    return network


def part_of_a_weight() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return end(n, n.last(F.conv2d(torch.relu(n.stem(x)), n.part.weight[:6])))

    return Pieces(run_net, stem=nn.Conv2d(3, 12, 1), part=nn.Conv2d(12, 8, 1), last=nn.Conv2d(6, 16, 3),
                  head=nn.Linear(16, 4))  # fmt: skip


def on_a_buffer() -> nn.Module:
    """Layers that no image reaches run once for a batch of any size."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return end(n, n.stem(x) + n.back(torch.relu(n.wide(n.places))).T.reshape(1, -1, 8, 8))

    network = Pieces(run_net, stem=nn.Conv2d(3, 12, 1), wide=nn.Linear(2, 10), back=nn.Linear(10, 12),
                     head=nn.Linear(12, 4))  # fmt: skip
    network.register_buffer("places", torch.randn(64, 2))
    return network


def grouped() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return end(n, n.point(n.depth(torch.relu(n.stem(x)))))

    return Pieces(run_net, stem=nn.Conv2d(3, 12, 1), depth=nn.Conv2d(12, 24, 3, groups=12),
                  point=nn.Conv2d(24, 16, 1, groups=2), head=nn.Linear(16, 4))  # fmt: skip


def recurrent() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return n.head(torch.relu(n.last(n.cell(torch.relu(n.stem(x)).flatten(2).mT)[0][:, -1])))

    cell = nn.LSTM(12, 6, 2, batch_first=True, bidirectional=True)
    return Pieces(run_net, stem=nn.Conv2d(3, 12, 1), cell=cell, last=nn.Linear(12, 16), head=nn.Linear(16, 4))


def gated() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return n.head(torch.relu(n.last(n.cell(torch.relu(n.stem(x)).flatten(2).mT)[0][:, -1])))

    return Pieces(run_net, stem=nn.Conv2d(3, 12, 1), cell=nn.GRU(12, 6, batch_first=True), last=nn.Linear(6, 16),
                  head=nn.Linear(16, 4))  # fmt: skip


def bilinear() -> nn.Module:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        both = n.both(torch.relu(n.left(x)).mean((2, 3)), torch.relu(n.right(x)).mean((2, 3)))
        return n.head(torch.relu(n.last(both)))

    return Pieces(run_net, left=nn.Conv2d(3, 12, 1), right=nn.Conv2d(3, 10, 1), both=nn.Bilinear(12, 10, 6),
                  last=nn.Linear(6, 16), head=nn.Linear(16, 4))  # fmt: skip


def mixed_bank() -> nn.Module:
    """The weight is a mixture of several, by what the image asks for; the product with it is one of activations."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = torch.relu(n.stem(x)).mean((2, 3))
        mixed = torch.einsum("bk,koi->boi", n.router(x).softmax(1), n.bank)
        return n.head(torch.relu(torch.einsum("boi,bi->bo", mixed, x)))

    return Pieces(run_net, stem=nn.Conv2d(3, 12, 1), router=nn.Linear(12, 3), bank=parameter(3, 16, 12),
                  head=nn.Linear(16, 4))  # fmt: skip

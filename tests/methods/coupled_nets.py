"""Small networks with every way in which channels can hang together; images (3, 8, 8), 7 classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
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


def pooled(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


def plain() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(pooled(F.relu(n.bn2(n.c2(F.relu(n.bn1(n.c1(x)))))))),
        c1=conv(3, 8), bn1=nn.BatchNorm2d(8), c2=conv(8, 12), bn2=nn.BatchNorm2d(12), fc=nn.Linear(12, CLASSES),
    )  # fmt: skip


def without_norm() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(pooled(F.relu(n.c2(F.relu(n.c1(x)))))),
        c1=conv(3, 8), c2=conv(8, 12), fc=nn.Linear(12, CLASSES),
    )  # fmt: skip


def residual() -> nn.Module:
    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x))
        return n.fc(pooled(F.relu(x + n.bn2(n.c2(F.relu(n.bn1(n.c1(x))))))))

    return Pieces(
        run, stem=conv(3, 8), c1=conv(8, 6), bn1=nn.BatchNorm2d(6), c2=conv(6, 8), bn2=nn.BatchNorm2d(8),
        fc=nn.Linear(8, CLASSES),
    )  # fmt: skip


def projection() -> nn.Module:
    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x))
        return n.fc(pooled(F.relu(n.short(x) + n.c2(F.relu(n.c1(x))))))

    return Pieces(
        run, stem=conv(3, 8), c1=conv(8, 6, stride=2), c2=conv(6, 10), short=conv(8, 10, 1, stride=2),
        fc=nn.Linear(10, CLASSES),
    )  # fmt: skip


def concat() -> nn.Module:
    def run(n: nn.Module, x: Tensor) -> Tensor:
        return n.fc(pooled(F.relu(n.after(F.relu(n.bn(torch.cat([n.a(x), n.b(x), x], 1)))))))

    return Pieces(
        run, a=conv(3, 6), b=conv(3, 4, 1), bn=nn.BatchNorm2d(13), after=conv(13, 8), fc=nn.Linear(8, CLASSES)
    )  # fmt: skip


def dense_connected() -> nn.Module:
    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = n.stem(x)
        x = torch.cat([x, n.c1(F.relu(n.bn1(x)))], 1)
        x = torch.cat([x, n.c2(F.relu(n.bn2(x)))], 1)
        return n.fc(pooled(F.relu(n.bn3(x))))

    return Pieces(
        run, stem=conv(3, 6), bn1=nn.BatchNorm2d(6), c1=conv(6, 4), bn2=nn.BatchNorm2d(10), c2=conv(10, 4),
        bn3=nn.BatchNorm2d(14), fc=nn.Linear(14, CLASSES),
    )  # fmt: skip


def depthwise() -> nn.Module:
    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu6(n.bn(n.dw(F.relu6(n.expand(x)))))
        return n.fc(pooled(F.relu(n.project(x))))

    return Pieces(
        run, expand=conv(3, 8, 1), dw=conv(8, 8, groups=8, stride=2), bn=nn.BatchNorm2d(8), project=conv(8, 6, 1),
        fc=nn.Linear(6, CLASSES),
    )  # fmt: skip


def grouped() -> nn.Module:
    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.bn(n.grouped(F.relu(n.before(x)))))
        return n.fc(pooled(F.relu(n.after(x))))

    return Pieces(
        run, before=conv(3, 12), grouped=conv(12, 18, groups=3), bn=nn.BatchNorm2d(18), after=conv(18, 8),
        fc=nn.Linear(8, CLASSES),
    )  # fmt: skip


def squeeze_excite() -> nn.Module:
    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = F.silu(n.stem(x))
        x = x * torch.sigmoid(n.up(F.relu(n.down(F.adaptive_avg_pool2d(x, 1)))))
        return n.fc(pooled(F.relu(n.after(x))))

    return Pieces(
        run, stem=conv(3, 8), down=conv(8, 4, 1), up=conv(4, 8, 1), after=conv(8, 6), fc=nn.Linear(6, CLASSES)
    )  # fmt: skip


def squeeze_excite_linear() -> nn.Module:
    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x))
        gate = torch.sigmoid(n.up(F.relu(n.down(x.mean((2, 3))))))
        return n.fc(pooled(F.relu(n.after(x * gate[:, :, None, None]))))

    return Pieces(
        run, stem=conv(3, 8), down=nn.Linear(8, 4), up=nn.Linear(4, 8), after=conv(8, 6), fc=nn.Linear(6, CLASSES)
    )  # fmt: skip


def flatten() -> nn.Module:
    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(n.c2(F.relu(n.c1(x)))), 4)  # (N, 6, 2, 2)
        return n.fc2(F.relu(n.fc1(x.flatten(1))))

    return Pieces(run, c1=conv(3, 8), c2=conv(8, 6), fc1=nn.Linear(24, 10), fc2=nn.Linear(10, CLASSES))


def halves() -> nn.Module:
    """The first half gates the second."""

    def run(n: nn.Module, x: Tensor) -> Tensor:
        left, right = n.c1(x).chunk(2, 1)
        return n.fc(pooled(F.relu(n.after(left * torch.sigmoid(right)))))

    return Pieces(run, c1=conv(3, 12), after=conv(6, 8), fc=nn.Linear(8, CLASSES))


def split_paths() -> nn.Module:
    """Unequal parts go their own ways."""

    def run(n: nn.Module, x: Tensor) -> Tensor:
        left, right = torch.split(F.relu(n.c1(x)), [4, 8], 1)
        return n.fc(pooled(F.relu(n.left(left)) + F.relu(n.right(right))))

    return Pieces(run, c1=conv(3, 12), left=conv(4, 6), right=conv(8, 6), fc=nn.Linear(6, CLASSES))


def shared() -> nn.Module:
    """One convolution applied twice, to its own output."""

    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x))
        return n.fc(pooled(F.relu(n.again(F.relu(n.again(x))))))

    return Pieces(run, stem=conv(3, 8), again=conv(8, 8), fc=nn.Linear(8, CLASSES))


def shared_on_two_inputs() -> nn.Module:
    def run(n: nn.Module, x: Tensor) -> Tensor:
        return n.fc(pooled(F.relu(n.head(F.relu(n.a(x)))) + F.relu(n.head(F.relu(n.b(x))))))

    return Pieces(run, a=conv(3, 8), b=conv(3, 8, 1), head=conv(8, 6), fc=nn.Linear(6, CLASSES))


class LambdaLayer(nn.Module):
    """As in the code that CIFAR checkpoints in the wild come with."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def option_a() -> nn.Module:
    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x))
        x = F.relu(n.c2(F.relu(n.c1(x))) + x)
        return n.fc(pooled(F.relu(n.c4(F.relu(n.c3(x))) + n.short(x))))

    short = LambdaLayer(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2), "constant", 0))
    return Pieces(
        run, stem=conv(3, 8), c1=conv(8, 6), c2=conv(6, 8), c3=conv(8, 10, stride=2), c4=conv(10, 12), short=short,
        fc=nn.Linear(12, CLASSES),
    )  # fmt: skip


def shuffle() -> nn.Module:
    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x))
        left, right = torch.split(x, 6, 1)
        x = torch.cat([left, F.relu(n.branch(right))], 1)
        b, c, h, w = x.shape
        x = x.reshape(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return n.fc(pooled(F.relu(n.after(x))))

    return Pieces(run, stem=conv(3, 12), branch=conv(6, 6), after=conv(12, 8), fc=nn.Linear(8, CLASSES))


def group_norm() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(pooled(F.relu(n.c2(F.relu(n.gn(n.c1(x))))))),
        c1=conv(3, 12), gn=nn.GroupNorm(3, 12), c2=conv(12, 8), fc=nn.Linear(8, CLASSES),
    )  # fmt: skip


def convnext() -> nn.Module:
    """A block of ConvNeXt: depthwise, layer norm with channels last, linear layers, layer scale."""

    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = n.stem(x)
        y = n.norm(n.dw(x).permute(0, 2, 3, 1))
        y = n.narrow(F.gelu(n.wide(y))).permute(0, 3, 1, 2)
        return n.fc(pooled(x + n.scale * y))

    return Pieces(
        run, stem=conv(3, 8), dw=conv(8, 8, groups=8), norm=nn.LayerNorm(8), wide=nn.Linear(8, 16),
        narrow=nn.Linear(16, 8), scale=nn.Parameter(torch.ones(8, 1, 1)), fc=nn.Linear(8, CLASSES),
    )  # fmt: skip


def prelu() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(pooled(n.one(n.c2(n.many(n.c1(x)))))),
        c1=conv(3, 8), many=nn.PReLU(8), c2=conv(8, 6), one=nn.PReLU(), fc=nn.Linear(6, CLASSES),
    )  # fmt: skip


def transposed() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(pooled(F.relu(n.c2(F.relu(n.up(F.relu(n.c1(x)))))))),
        c1=conv(3, 8), up=nn.ConvTranspose2d(8, 6, 2, 2), c2=conv(6, 10), fc=nn.Linear(10, CLASSES),
    )  # fmt: skip


def odd_kernels() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(pooled(F.relu(n.c3(F.relu(n.c2(F.relu(n.c1(x)))))))),
        c1=nn.Conv2d(3, 8, (1, 5), padding=(0, 1)), c2=nn.Conv2d(8, 6, 3, padding=2, dilation=2),
        c3=nn.Conv2d(6, 10, (3, 1), stride=(2, 1)), fc=nn.Linear(10, CLASSES),
    )  # fmt: skip


def hard_coded_view() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(F.adaptive_avg_pool2d(F.relu(n.c2(F.relu(n.c1(x)))), 1).view(-1, 12)),
        c1=conv(3, 8), c2=conv(8, 12), fc=nn.Linear(12, CLASSES),
    )  # fmt: skip


def checks_its_width() -> nn.Module:
    """Nothing a graph could show: the forward pass itself insists on a width."""

    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.c1(x))
        if x.shape[1] != 8:
            raise ValueError("eight channels were promised")
        return n.fc(pooled(F.relu(n.c2(x))))

    return Pieces(run, c1=conv(3, 8), c2=conv(8, 12), fc=nn.Linear(12, CLASSES))


def depends_on_width() -> nn.Module:
    """Runs at every width but computes something else: a sum over channels scaled by their number."""

    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.c1(x))
        return n.fc(pooled(F.relu(n.c2(x * (x.shape[1] / 8) ** 2))))

    return Pieces(run, c1=conv(3, 8), c2=conv(8, 12), fc=nn.Linear(12, CLASSES))


def picks_channels() -> nn.Module:
    """Channels picked by number, out of order."""

    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.c1(x))[:, [5, 0, 3, 2]]
        return n.fc(pooled(F.relu(n.c2(x))))

    return Pieces(run, c1=conv(3, 8), c2=conv(4, 12), fc=nn.Linear(12, CLASSES))


def unused_layer() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(pooled(F.relu(n.c1(x)))),
        c1=conv(3, 8), idle=conv(8, 8), fc=nn.Linear(8, CLASSES),
    )  # fmt: skip


def product() -> nn.Module:
    """Two branches multiplied; and a broadcast over channels."""

    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.a(x)) * F.relu(n.b(x)) * torch.sigmoid(n.mask(x))
        return n.fc(pooled(F.relu(n.after(x))))

    return Pieces(
        run, a=conv(3, 8), b=conv(3, 8, 1), mask=conv(3, 1), after=conv(8, 6), fc=nn.Linear(6, CLASSES)
    )  # fmt: skip


def only_linear() -> nn.Module:
    return Pieces(
        lambda n, x: n.c(F.relu(n.b(F.relu(n.a(x.flatten(1)))))),
        a=nn.Linear(192, 10), b=nn.Linear(10, 8), c=nn.Linear(8, CLASSES),
    )  # fmt: skip


def output_is_sum() -> nn.Module:
    """The classifier is a convolution, and a skip reaches the output."""
    return Pieces(
        lambda n, x: pooled(n.head(F.relu(n.c1(x))) + n.skip(x)), c1=conv(3, 8), head=conv(8, CLASSES, 1),
        skip=conv(3, CLASSES, 1),
    )  # fmt: skip


def tied() -> nn.Module:
    """Two modules with one parameter."""
    network = Pieces(
        lambda n, x: n.fc(pooled(F.relu(n.b(F.relu(n.a(F.relu(n.stem(x)))))))),
        stem=conv(3, 8), a=conv(8, 8), b=conv(8, 8), fc=nn.Linear(8, CLASSES),
    )  # fmt: skip
    network.b.weight = network.a.weight
    return network


def alias() -> nn.Module:
    """One module under two names."""
    network = Pieces(
        lambda n, x: n.fc(pooled(F.relu(n.b(F.relu(n.a(F.relu(n.stem(x)))))))),
        stem=conv(3, 8), a=conv(8, 8), fc=nn.Linear(8, CLASSES),
    )  # fmt: skip
    network.b = network.a
    return network


def concat_of_branches() -> nn.Module:
    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x))
        x = torch.cat([n.a(x), F.max_pool2d(x, 3, 1, 1), n.b(x)], 1)
        return n.fc(pooled(F.relu(n.after(F.relu(n.bn(x))))))

    return Pieces(
        run, stem=conv(3, 5), a=conv(5, 6), b=conv(5, 4, 1), bn=nn.BatchNorm2d(15), after=conv(15, 8),
        fc=nn.Linear(8, CLASSES),
    )  # fmt: skip


def concat_then_flatten() -> nn.Module:
    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(torch.cat([n.a(x), n.b(x)], 1))
        return n.fc(F.adaptive_avg_pool2d(x, 2).flatten(1))

    return Pieces(run, a=conv(3, 6), b=conv(3, 4, 1), fc=nn.Linear(40, CLASSES))


def grouped_after_concat() -> nn.Module:
    """Each group of the convolution is fed by a branch of its own."""

    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(torch.cat([n.a(n.stem(x)), n.b(n.stem(x))], 1))
        return n.fc(pooled(F.relu(n.grouped(x))))

    return Pieces(
        run, stem=conv(3, 4), a=conv(4, 6), b=conv(4, 6, 1), grouped=conv(12, 8, groups=2), fc=nn.Linear(8, CLASSES)
    )  # fmt: skip


def depth_multiplier() -> nn.Module:
    """A grouped convolution that makes two channels of each."""

    def run(n: nn.Module, x: Tensor) -> Tensor:
        return n.fc(pooled(F.relu(n.after(F.relu(n.twice(F.relu(n.stem(x))))))))

    return Pieces(
        run, stem=conv(3, 6), twice=conv(6, 12, groups=6), after=conv(12, 8), fc=nn.Linear(8, CLASSES)
    )  # fmt: skip


def residual_grouped() -> nn.Module:
    """A grouped convolution inside a residual block, one group norm around it."""

    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x))
        x = x + n.c2(F.relu(n.gn(n.c1(x))))
        return n.fc(pooled(F.relu(x)))

    return Pieces(
        run, stem=conv(3, 8), c1=conv(8, 12, groups=2), gn=nn.GroupNorm(3, 12), c2=conv(12, 8, groups=4),
        fc=nn.Linear(8, CLASSES),
    )  # fmt: skip


def weight_normed() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(pooled(F.relu(n.c2(F.relu(n.c1(x)))))),
        c1=nn.utils.parametrizations.weight_norm(conv(3, 8)), c2=conv(8, 12), fc=nn.Linear(12, CLASSES),
    )  # fmt: skip


def attention() -> nn.Module:
    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x)).flatten(2).transpose(1, 2)
        x = x + n.attention(x, x, x)[0]
        return n.fc(F.relu(n.wide(x)).mean(1))

    return Pieces(
        run, stem=conv(3, 8, stride=2), attention=nn.MultiheadAttention(8, 2, batch_first=True),
        wide=nn.Linear(8, 12), fc=nn.Linear(12, CLASSES),
    )  # fmt: skip


def bare_parameters() -> nn.Module:
    """A scale per channel, and a bias map added to all of them."""

    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.c1(x)) * n.scale + n.place
        return n.fc(pooled(F.relu(n.c2(x))))

    return Pieces(
        run, c1=conv(3, 8), scale=nn.Parameter(torch.ones(1, 8, 1, 1)), place=nn.Parameter(torch.zeros(1, 1, 8, 8)),
        c2=conv(8, 12), fc=nn.Linear(12, CLASSES),
    )  # fmt: skip


def instance_norm() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(pooled(F.relu(n.c2(F.relu(n.norm(n.c1(x))))))),
        c1=conv(3, 8), norm=nn.InstanceNorm2d(8, affine=True, track_running_stats=True), c2=conv(8, 12),
        fc=nn.Linear(12, CLASSES),
    )  # fmt: skip


def norm_without_weights() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(pooled(F.relu(n.c2(F.relu(n.norm(n.c1(x))))))),
        c1=conv(3, 8), norm=nn.BatchNorm2d(8, affine=False), c2=conv(8, 12), fc=nn.Linear(12, CLASSES),
    )  # fmt: skip


def pixel_shuffle() -> nn.Module:
    return Pieces(
        lambda n, x: n.fc(pooled(F.relu(n.c2(F.pixel_shuffle(F.relu(n.c1(x)), 2))))),
        c1=conv(3, 8), c2=conv(2, 6), fc=nn.Linear(6, CLASSES),
    )  # fmt: skip


def recurrent() -> nn.Module:
    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.stem(x)).flatten(2).transpose(1, 2)
        return n.fc(n.cell(x)[0][:, -1])

    return Pieces(run, stem=conv(3, 8), cell=nn.LSTM(8, 6, batch_first=True), fc=nn.Linear(6, CLASSES))


def mean_over_channels() -> nn.Module:
    """Attention over places from the mean over channels (CBAM): another number of channels, another mean."""

    def run(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.c1(x))
        x = x * torch.sigmoid(n.place(x.mean(1, keepdim=True)))
        return n.fc(pooled(F.relu(n.c2(x))))

    return Pieces(run, c1=conv(3, 8), place=conv(1, 1), c2=conv(8, 6), fc=nn.Linear(6, CLASSES))

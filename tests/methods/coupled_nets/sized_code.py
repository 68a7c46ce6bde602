"""Networks whose code holds widths beside sizes of images and batches, or runs otherwise on other inputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coupled_nets.pieces import CLASSES, conv, pool_mean


class Ended(nn.Module):
    """Two convolutions, and a linear layer after the mean of what `between` makes of the first one's channels."""

    def __init__(self, width: int = 8, inputs: int = 8) -> None:
        super().__init__()
        self.a, self.b, self.fc = conv(3, width), conv(inputs, 6), nn.Linear(6, CLASSES)

    def between(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(pool_mean(F.relu(self.b(self.between(F.relu(self.a(x)))))))


class Positions(Ended):
    """Channels and positions in one dimension."""

    def between(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        return (x.reshape(n, 8 * h * w) * 2).reshape(n, 8, h, w)


class ChannelsInBatch(Ended):
    """A blur of every channel by itself, as one of the batch."""

    def between(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        return F.avg_pool2d(x.view(n * 8, 1, h, w), 3, 1, 1).view(n, 8, h, w)


class BatchInChannels(Ended):
    """A depthwise convolution with kernels of the image's own, which hold the batch as channels."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = nn.Linear(8, 8 * 9)

    def between(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        kernels = self.kernels(pool_mean(x)).view(n * 8, 1, 3, 3)
        return F.conv2d(x.reshape(1, -1, h, w), kernels, padding=1, groups=n * 8).view(n, 8, h, w)


class PixelShuffle(Ended):
    """Four channels become one of twice the size, by a view with a literal."""

    def __init__(self) -> None:
        super().__init__(16, 4)

    def between(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        x = x.view(n, 2, 2, 16 // 4, h, w).permute(0, 3, 4, 1, 5, 2)
        return x.reshape(n, 4, h * 2, w * 2)


class PatchMerging(Ended):
    """Neighbours become channels; sizes come from arithmetic."""

    def __init__(self) -> None:
        super().__init__(8, 8)
        self.reduce = nn.Linear(32, 8)

    def between(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        x = x.permute(0, 2, 3, 1).reshape(n, h // 2, 2, w // 2, 2, 8)
        x = self.reduce(x.permute(0, 1, 3, 4, 2, 5).reshape(n, (h // 2) * (w // 2), 4 * 8))
        return x.transpose(1, 2).reshape(n, -1, h // 2, w // 2)


class Windows(Ended):
    """Attention in windows of 4 x 4, as Swin does it; the widths of the stream and of heads are literals."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def between(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        tokens = x.permute(0, 2, 3, 1).view(n, h // 4, 4, w // 4, 4, 8).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, 8)
        b = tokens.shape[0]
        q, k, v = self.qkv(tokens).reshape(b, 16, 3, 2, 4).permute(2, 0, 3, 1, 4).reshape(3, b * 2, 16, 4)
        y = ((q * 4**-0.5) @ k.mT).softmax(-1) @ v
        y = self.out(y.view(b, 2, 16, 4).transpose(1, 2).reshape(b, 16, 8))
        y = y.view(n, h // 4, w // 4, 4, 4, 8).permute(0, 5, 1, 3, 2, 4).reshape(n, 8, h, w)
        return x + y


class HeadsInBatch(Ended):
    """Attention whose heads lie in the batch; the number of heads is taken from widths that are narrowed apart."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(8, 12)
        self.out = nn.Linear(12, 8)

    def between(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        tokens = x.flatten(2).mT
        q, k, v = (part(tokens).view(n, h * w, 3, 4).transpose(1, 2).reshape(n * 3, h * w, 4)
                   for part in (self.q, self.k, self.v))  # fmt: skip
        y = (q @ k.mT / 2).softmax(-1) @ v
        y = self.out(y.view(n, 3, h * w, 4).transpose(1, 2).reshape(n * h * w, 12))
        return x + y.view(n, h * w, c).mT.reshape(n, c, h, w)


class Shared(nn.Module):
    """A shuffle with literals, which a network applies to several tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = conv(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        x = F.relu(self.mix(x))
        return x.view(n, 2, 4, h * w).transpose(1, 2).reshape(n, 8, h, w)


class Recurrent(Ended):
    """One block several times, at other sizes: as often as the image is large."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Shared()

    def between(self, x: Tensor) -> Tensor:
        total = self.block(x)
        while min(x.shape[2:]) > 3:
            x = F.avg_pool2d(x, 2)
            total = total + F.interpolate(self.block(x), size=total.shape[2:])
        return total


class Pyramid(Ended):
    """Channels times positions at several sizes, in a loop; a factor of the interpolation and of the sum."""

    def between(self, x: Tensor) -> Tensor:
        total = x
        for _ in range(2):
            n, _, h, w = x.shape
            x = (F.avg_pool2d(x, 2).reshape(n, 8 * (h // 2) * (w // 2)) * 0.5).reshape(n, 8, h // 2, w // 2)
            total = total + F.interpolate(x, size=total.shape[2:])
        return F.interpolate(total, scale_factor=2.0) * 0.25


class Item(Ended):
    """A whole number from the data divides it."""

    def __init__(self) -> None:
        super().__init__()
        self.probe = conv(8, 1)

    def between(self, x: Tensor) -> Tensor:
        return x / max(1, int(self.probe(x).amax().item()))


class RootOfSizes(Ended):
    """A factor of width and positions, at several sizes in a loop."""

    def between(self, x: Tensor) -> Tensor:
        total = x
        for _ in range(2):
            _, c, h, w = x.shape
            x = F.avg_pool2d(x * (c * h * w) ** -0.5, 2)
            total = total + F.interpolate(x, size=total.shape[2:])
        return total


class ProductOfSizes(Ended):
    """A whole number of width and positions."""

    def between(self, x: Tensor) -> Tensor:
        return x * x[0].numel() / 1000


class SumOfSizes(Ended):
    """A factor of width and height together, which cannot be taken apart."""

    def between(self, x: Tensor) -> Tensor:
        return x / (x.shape[1] + x.shape[2])


class ByShape(Ended):
    """Small images go through another line."""

    def between(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        if h >= 8:
            return x.reshape(n, 2, 4, h, w).transpose(1, 2).reshape(n, 8, h, w)
        return x


class GroupedStatistics(Ended):
    """A group norm by hand: the number of groups and the positions are in the code."""

    def between(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        grouped = x.view(n, 2, 4 * h * w)
        return (grouped / (grouped.abs().amax(2, keepdim=True) + 1)).view(n, 8, h, w)


class WidthOfAnother(nn.Module):
    """Values of one layer are laid out by the width of another."""

    def __init__(self) -> None:
        super().__init__()
        self.stream, self.values = conv(3, 8), conv(8, 8)
        self.b, self.fc = conv(8, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stream(x)
        n, c, h, w = x.shape
        y = F.max_pool1d(self.values(x).reshape(n * c, h, w), 3, 1, 1).reshape(n, c, h, w)
        return self.fc(pool_mean(F.relu(self.b(y)) + 0 * x.sum((1, 2, 3), keepdim=True)))


class OnlyTraining(Ended):
    """Training measures groups of channels by hand, and weakens all by a random number."""

    def between(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        n, _, h, w = x.shape
        grouped = x.view(n, 2, 4, h * w)
        grouped = grouped / (grouped.abs().amax((2, 3), keepdim=True) + 1)
        return grouped.view(n, 8, h, w) * torch.rand(()).item()


class TrainsInBatch(ChannelsInBatch):
    """Only training folds channels into the batch."""

    def between(self, x: Tensor) -> Tensor:
        return super().between(x) if self.training else x

"""Networks in which one instruction makes several calls: in loops, helpers, methods and gradient checkpoints."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from coupled_nets.pieces import CLASSES, conv, pool_mean
from coupled_nets.sized_code import Ended


class DropsLayers(nn.Module):
    """Branches of unequal width in a loop, each divided by a root of its width; training leaves some out."""

    def __init__(self) -> None:
        super().__init__()
        self.dropped: tuple[int, ...] = ()
        self.stem, self.fc = conv(3, 8), nn.Linear(8, CLASSES)
        self.wide = nn.ModuleList(conv(8, width, 1) for width in (4, 9, 16))
        self.back = nn.ModuleList(conv(width, 8, 1) for width in (4, 9, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for number, (wide, back) in enumerate(zip(self.wide, self.back, strict=True)):
            if number not in self.dropped:
                y = F.relu(wide(x))
                x = x + back(y / y.shape[1] ** 0.5)
        return self.fc(pool_mean(x))


def divide_by_width(x: Tensor) -> Tensor:
    return x / x.shape[1] ** 0.5


class Helper(DropsLayers):
    """The same by a helper, in lines of their own."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if 0 not in self.dropped:
            x = x + self.back[0](divide_by_width(F.relu(self.wide[0](x))))
        if 1 not in self.dropped:
            x = x + self.back[1](divide_by_width(F.relu(self.wide[1](x))))
        x = x + self.back[2](divide_by_width(F.relu(self.wide[2](x))))
        return self.fc(pool_mean(x))


def take_four(x: Tensor) -> Tensor:
    return x[:, :4]


class HelperWithLiteral(DropsLayers):
    """A helper holds one width for parts of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.ModuleList(conv(8, 8, 1) for _ in range(2))
        self.back = nn.ModuleList(conv(4, 8, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if 0 not in self.dropped:
            x = x + self.back[0](take_four(F.relu(self.wide[0](x))))
        if 1 not in self.dropped:
            x = x + self.back[1](take_four(F.relu(self.wide[1](x))))
        return self.fc(pool_mean(x))


class Nested(nn.Module):
    """A block in a block of the same code."""

    def __init__(self, depth: int = 2) -> None:
        super().__init__()
        self.wide, self.back = conv(3, 8), conv(4, 3)
        self.inner = Nested(depth - 1) if depth else nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.inner, nn.Linear):
            return self.inner(pool_mean(F.relu(self.wide(x))))
        return self.inner(x + self.back(F.relu(self.wide(x))[:, :4]))


class Body(Ended):
    """Methods that another module calls: no hook of this one tells that it runs."""

    def between(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        return x.reshape(n, 2, 4 * h * w).reshape(n, 2, 4, h, w).transpose(1, 2).reshape(n, 8, h, w)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.b(self.between(F.relu(self.a(x)))))


class CallsMethods(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.other = Body(), Body()

    def forward(self, x: Tensor) -> Tensor:
        return self.body.fc(pool_mean(self.body.features(x))) + self.other.forward(x)


class Attention(nn.Module):
    """Scores are divided by a root of the width; training may run it in a gradient checkpoint."""

    def __init__(self, *, reentrant: bool = False) -> None:
        super().__init__()
        self.reentrant, self.checkpointed = reentrant, True
        self.qkv = nn.Linear(8, 24)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x)


class CheckpointedMethod(Attention):
    """A method in the checkpoint runs again in the backward pass, when no module runs."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.checkpointed:
            return torch.as_tensor(checkpoint(self.attend, x, use_reentrant=self.reentrant))
        return self.attend(x)


class CheckpointedModule(nn.Module):
    """A module in the checkpoint runs again as a module."""

    def __init__(self, *, reentrant: bool = False) -> None:
        super().__init__()
        self.reentrant, self.checkpointed, self.inner = reentrant, True, Attention()

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.checkpointed:
            return torch.as_tensor(checkpoint(self.inner, x, use_reentrant=self.reentrant))
        return self.inner(x)


class Attends(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.stem, self.attention, self.fc = conv(3, 8), attention, nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.attention(F.avg_pool2d(self.stem(x), 2).flatten(2).mT).mean(1))

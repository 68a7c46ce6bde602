"""A detector built like the YOLOv8 family's, with the habits of its code; images (3, H, W), H and W multiples of 32.

Training returns the raw maps of three scales, evaluation decoded boxes and scores together with these maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


class ConvUnit(nn.Module):
    """Convolution, batch norm, activation; `forward_fused` is what replaces `forward` once the norm is folded away."""

    default_act = nn.SiLU(inplace=True)

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, g: int = 1, act: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2, groups=g, bias=False)
        self.bn = nn.BatchNorm2d(c2, eps=1e-3, momentum=0.03)
        self.act = self.default_act if act is True else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))

    def forward_fused(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class Bottleneck(nn.Module):
    def __init__(self, c1: int, c2: int, shortcut: bool, e: float = 0.5) -> None:
        super().__init__()
        c_ = int(c2 * e)
        self.cv1 = ConvUnit(c1, c_, 3)
        self.cv2 = ConvUnit(c_, c2, 3)
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C2f(nn.Module):
    """Both halves of a convolution and what each bottleneck makes of the last part, concatenated."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = False, split: bool = False) -> None:
        super().__init__()
        self.c = c2 // 2  # hidden channels
        self.cv1 = ConvUnit(c1, 2 * self.c)
        self.cv2 = ConvUnit((2 + n) * self.c, c2)
        self.m = nn.ModuleList(Bottleneck(self.c, self.c, shortcut, e=1.0) for _ in range(n))
        self.split = split

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        y = list(x.split((self.c, self.c), 1) if self.split else x.chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class SPPF(nn.Module):
    def __init__(self, c1: int, c2: int, k: int = 5) -> None:
        super().__init__()
        c_ = c1 // 2
        self.cv1 = ConvUnit(c1, c_)
        self.cv2 = ConvUnit(c_ * 4, c2)
        self.m = nn.MaxPool2d(kernel_size=k, stride=1, padding=k // 2)

    def forward(self, x: Tensor) -> Tensor:
        y = [self.cv1(x)]
        y.extend(self.m(y[-1]) for _ in range(3))
        return self.cv2(torch.cat(y, 1))


class Concat(nn.Module):
    def __init__(self, dimension: int = 1) -> None:
        super().__init__()
        self.d = dimension

    def forward(self, x: list[Tensor]) -> Tensor:
        return torch.cat(x, self.d)


class DFL(nn.Module):
    """The mean of a distribution over distances, by a convolution whose weight is 0, 1, 2, … and is not trained."""

    def __init__(self, c1: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.data[:] = torch.arange(c1, dtype=torch.float).view(1, c1, 1, 1)
        self.c1 = c1

    def forward(self, x: Tensor) -> Tensor:
        b, _, a = x.shape
        return self.conv(x.view(b, 4, self.c1, a).transpose(2, 1).softmax(1)).view(b, 4, a)


def make_anchors(feats: Sequence[Tensor], strides: Tensor, offset: float = 0.5) -> tuple[Tensor, Tensor]:
    points, steps = [], []
    for feat, stride in zip(feats, strides, strict=True):
        _, _, h, w = feat.shape
        sx = torch.arange(w, dtype=feat.dtype, device=feat.device) + offset
        sy = torch.arange(h, dtype=feat.dtype, device=feat.device) + offset
        sy, sx = torch.meshgrid(sy, sx, indexing="ij")
        points.append(torch.stack((sx, sy), -1).view(-1, 2))
        steps.append(torch.full((h * w, 1), float(stride), dtype=feat.dtype, device=feat.device))
    return torch.cat(points), torch.cat(steps)


class Detect(nn.Module):
    """Decoupled heads of boxes and classes at every scale."""

    shape = None  # of the maps that the anchors are for
    anchors = torch.empty(0)
    strides = torch.empty(0)

    def __init__(self, nc: int, ch: Sequence[int]) -> None:
        super().__init__()
        self.nc = nc  # classes
        self.nl = len(ch)  # layers of detection
        self.reg_max = 16
        self.no = nc + self.reg_max * 4  # outputs of an anchor
        self.stride = torch.zeros(self.nl)
        c2, c3 = max(16, ch[0] // 4, self.reg_max * 4), max(ch[0], min(self.nc, 100))
        self.cv2 = nn.ModuleList(
            nn.Sequential(ConvUnit(x, c2, 3), ConvUnit(c2, c2, 3), nn.Conv2d(c2, 4 * self.reg_max, 1)) for x in ch
        )
        self.cv3 = nn.ModuleList(
            nn.Sequential(ConvUnit(x, c3, 3), ConvUnit(c3, c3, 3), nn.Conv2d(c3, self.nc, 1)) for x in ch
        )
        self.dfl = DFL(self.reg_max)

    def forward(self, x: list[Tensor]) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        for i in range(self.nl):
            x[i] = torch.cat((self.cv2[i](x[i]), self.cv3[i](x[i])), 1)
        if self.training:
            return x
        shape = x[0].shape
        x_cat = torch.cat([xi.view(shape[0], self.no, -1) for xi in x], 2)
        if self.shape != shape:
            self.anchors, self.strides = (value.transpose(0, 1) for value in make_anchors(x, self.stride))
            self.shape = shape
        box, cls = x_cat.split((self.reg_max * 4, self.nc), 1)
        left_top, right_bottom = self.dfl(box).chunk(2, 1)
        start, end = self.anchors.unsqueeze(0) - left_top, self.anchors.unsqueeze(0) + right_bottom
        boxes = torch.cat(((start + end) / 2, end - start), 1) * self.strides
        return torch.cat((boxes, cls.sigmoid()), 1), x


# From, how often, class, arguments; widths and depths are multiplied by a model's.
LAYOUT: list[tuple[int | list[int], int, str, list[int]]] = [
    (-1, 1, "ConvUnit", [64, 3, 2]),
    (-1, 1, "ConvUnit", [128, 3, 2]),
    (-1, 3, "C2f", [128, 1]),
    (-1, 1, "ConvUnit", [256, 3, 2]),
    (-1, 6, "C2f", [256, 1]),
    (-1, 1, "ConvUnit", [512, 3, 2]),
    (-1, 6, "C2f", [512, 1]),
    (-1, 1, "ConvUnit", [1024, 3, 2]),
    (-1, 3, "C2f", [1024, 1]),
    (-1, 1, "SPPF", [1024]),
    (-1, 1, "Upsample", []),
    ([-1, 6], 1, "Concat", []),
    (-1, 3, "C2f", [512, 0]),
    (-1, 1, "Upsample", []),
    ([-1, 4], 1, "Concat", []),
    (-1, 3, "C2f", [256, 0]),
    (-1, 1, "ConvUnit", [256, 3, 2]),
    ([-1, 12], 1, "Concat", []),
    (-1, 3, "C2f", [512, 0]),
    (-1, 1, "ConvUnit", [512, 3, 2]),
    ([-1, 9], 1, "Concat", []),
    (-1, 3, "C2f", [1024, 0]),
    ([15, 18, 21], 1, "Detect", []),
]


class YoloLike(nn.Module):
    """The layers of `LAYOUT` in a row, each of which knows where its inputs come from (`m.f`)."""

    def __init__(self, nc: int = 5, width: float = 0.125, depth: float = 1 / 3, split: bool = False) -> None:
        super().__init__()
        self.nc, self.names = nc, {i: f"class {i}" for i in range(nc)}
        self.save: list[int] = []
        channels: list[int] = []
        layers = []
        for i, (source, repeats, kind, arguments) in enumerate(LAYOUT):
            sources = [source] if isinstance(source, int) else source
            given = [3 if i == 0 else channels[j] for j in sources]
            wide = int(arguments[0] * width) if arguments else given[0]
            n = max(round(repeats * depth), 1)
            layer, made = self._build(kind, given, wide, n, arguments, split)
            layer.i, layer.f, layer.type = i, source, kind  # type: ignore[assignment]
            self.save.extend(j for j in sources if j != -1)
            channels.append(made)
            layers.append(layer)
        self.model = nn.Sequential(*layers)
        detect = self.model[-1]
        with torch.no_grad():  # strides from a forward pass
            detect.stride = torch.tensor([64 / maps.shape[-2] for maps in self.forward(torch.zeros(1, 3, 64, 64))])

    def _build(
        self, kind: str, given: Sequence[int], wide: int, n: int, arguments: Sequence[int], split: bool
    ) -> tuple[nn.Module, int]:
        if kind == "ConvUnit":
            return ConvUnit(given[0], wide, *arguments[1:]), wide
        if kind == "C2f":
            return C2f(given[0], wide, n, shortcut=bool(arguments[1]), split=split), wide
        if kind == "SPPF":
            return SPPF(given[0], wide), wide
        if kind == "Upsample":
            return nn.Upsample(None, 2, "nearest"), given[0]
        if kind == "Concat":
            return Concat(1), sum(given)
        return Detect(self.nc, given), 0

    def forward(self, x: Tensor) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        return self._predict_once(x)

    def _predict_once(self, x: Tensor) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        y: list[Tensor | None] = []
        current: object = x
        for m in self.model:
            if m.f != -1:
                current = y[m.f] if isinstance(m.f, int) else [current if j == -1 else y[j] for j in m.f]
            current = m(current)
            y.append(current if m.i in self.save else None)
        return current  # type: ignore[return-value]


def raw_maps(outputs: Iterable[Tensor] | tuple[Tensor, list[Tensor]]) -> list[Tensor]:
    """The maps of three scales, in either mode."""
    return outputs[1] if isinstance(outputs, tuple) else list(outputs)

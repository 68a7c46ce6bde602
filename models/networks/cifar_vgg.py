"""VGG-11/16/19 with batch norm for 32×32 images: the convolutions of Simonyan & Zisserman, one linear classifier.

torchvision's `vgg11`, `vgg16_bn`, ... are the 224×224 networks; these carry `-cifar` in their names.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512, 512)


class CifarVGG(nn.Module):
    """Convolution, batch norm and ReLU throughout; a global average makes it independent of the image size."""

    def __init__(self, stages: tuple[int, ...], *, classes: int, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for count, width in zip(stages, WIDTHS, strict=True):
            for _ in range(count):
                # Batch norm follows, which makes a bias redundant.
                layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))

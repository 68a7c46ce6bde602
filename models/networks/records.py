"""The networks of this package: a name for each, and the class that builds it."""

from __future__ import annotations

from functools import partial

from models.deferred_code import DeferredCode
from models.networks.catalog import register

_RESNET = DeferredCode("models.networks.cifar_resnet:CifarResNet")
_VGG = DeferredCode("models.networks.cifar_vgg:CifarVGG")

register("small")(DeferredCode("models.networks.small:Small"))
register("densenet40")(DeferredCode("models.networks.cifar_densenet:CifarDenseNet"))
for depth in (20, 32, 44, 56, 110):
    register(f"resnet{depth}")(partial(_RESNET, (depth - 2) // 6))
# Convolutions per stage; every stage ends in a 2×2 maximum, so 32×32 arrives at 1×1.
for depth, stages in {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}.items():
    register(f"vgg{depth}-cifar")(partial(_VGG, stages))

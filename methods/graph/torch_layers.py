"""Layers that do what torch's classes do, whatever class of a user's they are of."""

from __future__ import annotations

import math

from torch import nn

from methods.graph.narrow import CONVOLUTIONS, TRANSPOSED, Conv

_CLASSES = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)
_METHODS = ("forward", "_conv_forward", "_output_padding")


def torch_class(layer: nn.Module) -> type[nn.Module] | None:
    """Torch's linear layer or convolution that a module is or is derived from."""
    return next((kind for kind in _CLASSES if isinstance(layer, kind)), None)


def why_altered(layer: nn.Module, kind: type[nn.Module]) -> str | None:
    """Why a module does not compute what torch's class `kind` does from a weight of its own; None if it does."""
    plain = all(getattr(type(layer), name, None) is getattr(kind, name, None) for name in _METHODS)
    weight = layer._parameters.get("weight")
    if not plain or weight is None:
        return "its weight or its forward pass is not that of a plain layer"
    return None if weight.is_floating_point() else "its weight is not floating point"


def taps_of(layer: nn.Module) -> int:
    """K, the positions of a kernel; 1 for a linear layer."""
    return math.prod(layer.kernel_size) if isinstance(layer, Conv) else 1

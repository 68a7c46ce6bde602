"""Convolutions that compute their weight (weight norm, weight standardisation) as plain ones with the weight as it is.

Such a weight depends on all of the layer's inputs, so that one without some of them would be another weight. The plain
layer keeps what was computed; it is trained from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from methods.base import copy_network
from methods.graph.narrow import Conv
from methods.graph.trace import evaluation_mode
from models.execution.forward_hooks import forward_hooks
from models.execution.operator_mode import OperatorMode


class PaddedConv2d(nn.Conv2d):
    """A convolution whose input is padded by other amounts on either side: left, right, top, bottom."""

    def __init__(self, *args: Any, pads: tuple[int, ...], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pads = pads

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(input, self.pads))


class _ConvolutionCall(OperatorMode):
    """The arguments of the one convolution of a forward pass, and the padding of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []
        self.pads: tuple[int, ...] = ()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self.run_parts(func, args, kwargs or {})
        if result is not NotImplemented:
            return result
        if func.overloadpacket is torch.ops.aten.constant_pad_nd:
            self.pads = tuple(args[1])
        if func.overloadpacket is torch.ops.aten.convolution:
            self.calls.append(args)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def plain_layer(layer: Conv, shape: torch.Size) -> nn.Module | None:
    """A plain convolution that does what `layer` does to an input of that shape; None if there is none.

    Args:
        shape: of an input with one example.
    """
    twin = copy_network(layer).eval()
    weight = next(leaf for leaf in tree_leaves(list(twin.parameters())) if leaf.dim() > 1)
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(weight)
    with _ConvolutionCall() as seen:
        outputs = twin(inputs)
    if len(seen.calls) != 1:
        return None
    _, weight, bias, stride, padding, dilation, transposed, _, groups = seen.calls[0]
    if transposed or (seen.pads and not isinstance(layer, nn.Conv2d)):
        return None
    kind = next(kind for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(layer, kind))
    arguments = {
        "kernel_size": tuple(weight.shape[2:]),
        "stride": tuple(stride),
        "padding": tuple(padding),
        "dilation": tuple(dilation),
        "groups": groups,
        "bias": bias is not None,
    }
    with torch.random.fork_rng(devices=[]):  # a new layer draws weights, which are replaced
        if seen.pads:
            plain: nn.Module = PaddedConv2d(layer.in_channels, layer.out_channels, pads=seen.pads, **arguments)
        else:
            plain = kind(layer.in_channels, layer.out_channels, **arguments)
    trained = {name for name, parameter in layer.named_parameters() if parameter.requires_grad}
    plain.weight = nn.Parameter(weight.detach().clone(), requires_grad=bool(trained - {"bias"}))
    if bias is not None:
        plain.bias = nn.Parameter(
            bias.detach().clone(), requires_grad="bias" in trained or "bias" not in layer._parameters
        )
    plain.train(layer.training)
    same = torch.allclose(plain(inputs), outputs, rtol=1e-4, atol=1e-6)
    return plain if same else None


def computed_weights(network: nn.Module, example: Tensor) -> dict[str, torch.Size]:
    """Convolutions that compute their weight and that a plain layer can stand for -> the shape of one input."""
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, Conv)]
    suspects = {name: module for name, module in layers if _computes_weight(module)}
    if not suspects:
        return {}
    shapes: dict[str, torch.Size] = {}

    def note_shape(name: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shapes.setdefault(name, inputs[0].shape)

    hooks = [(module, partial(note_shape, name)) for name, module in suspects.items()]
    with forward_hooks(before=hooks), evaluation_mode(network, example):
        network(example[:1])
    return {name: shape for name, shape in shapes.items() if plain_layer(suspects[name], shape) is not None}


def _computes_weight(layer: nn.Module) -> bool:
    """A weight that is no parameter (weight norm), or a forward pass of the layer's own."""
    return "weight" not in layer._parameters or not type(layer).forward.__module__.startswith("torch.nn.")


def replace_computed(network: nn.Module, shapes: Mapping[str, torch.Size]) -> None:
    """Put plain layers in the place of those named, in place."""
    for name, shape in shapes.items():
        layer = network.get_submodule(name)
        if isinstance(layer, Conv) and _computes_weight(layer) and (plain := plain_layer(layer, shape)) is not None:
            network.set_submodule(name, plain)

"""How often every layer applies its weights to one input, from a single forward pass of the dense network.

The FLOPs of a layer are `positions * weight.numel()`, whatever its groups, stride or dilation (`layer_flops`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from models.execution.forward_hooks import forward_hooks
from models.execution.operator_mode import OperatorMode

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)


@dataclass(frozen=True)
class LayerUse:
    """How often a layer's weights are applied for one input; zeros for a layer that evaluation never calls.

    A convolution applies them at its Hout * Wout output positions (a transposed one at its input positions), a
    linear layer once per token.
    """

    positions: int  # summed over calls
    calls: int


@contextmanager
def evaluation_mode(network: nn.Module, example: Tensor) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module's mode and the random state are as before."""
    modes = [(module, module.training) for module in network.modules()]
    devices = [example.device] if example.device.type == "cuda" else []
    try:
        network.eval()
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _count_positions(layer: nn.Module, inputs: Tensor, outputs: Tensor) -> int:
    """How often one call applies the layer's weights, over the whole batch."""
    if isinstance(layer, nn.Linear):
        return outputs.numel() // layer.out_features
    if isinstance(layer, TRANSPOSED):
        return inputs.numel() // layer.in_channels
    assert isinstance(layer, CONVOLUTIONS)
    return outputs.numel() // layer.out_channels


def trace_layers(network: nn.Module, example: Tensor) -> dict[str, LayerUse]:
    """The use of every convolution and linear layer, in the order of their first call, uncalled ones last.

    Args:
        example: one input batch (B, C, H, W) on the network's device; its values do not matter.
    """
    batch = example.shape[0]
    seen: dict[str, list[int]] = {}  # name -> positions of each call, over the batch

    def record_call(name: str, layer: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
        seen.setdefault(name, []).append(_count_positions(layer, inputs[0], outputs))

    layers = {name: module for name, module in network.named_modules() if isinstance(module, LAYERS)}
    hooks = [(layer, partial(record_call, name)) for name, layer in layers.items()]
    with forward_hooks(after=hooks), evaluation_mode(network, example):
        network(example)
    uncalled = {name: LayerUse(0, 0) for name in layers if name not in seen}
    return {name: LayerUse(sum(calls) // batch, len(calls)) for name, calls in seen.items()} | uncalled


def layer_flops(network: nn.Module, uses: Mapping[str, LayerUse]) -> int:
    """Multiply-accumulates of the dense layers for one input: Σ positions × weights."""
    return sum(use.positions * weight_of(network.get_submodule(name)).numel() for name, use in uses.items())


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a convolution or linear layer: a parameter, or computed from others (`weight_norm`)."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def count_params(network: nn.Module) -> int:
    """Number of parameters; shared ones once."""
    return sum(parameter.numel() for parameter in network.parameters())


def uncounted_flops(network: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of convolutions and matrix products for one input that no layer module accounts for.

    They stem from functional calls (`F.conv2d` on a bare parameter), which are neither counted nor compressed.
    """
    image = example[:1]
    with _ProductCounter() as counter, evaluation_mode(network, image):
        network(image)
    return max(0, counter.flops - layer_flops(network, trace_layers(network, image)))


class _ProductCounter(OperatorMode):
    """Counts the multiply-accumulates of all convolutions and matrix products, called by modules or not."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result, aten = func(*args, **(kwargs or {})), torch.ops.aten
        if func.overloadpacket is aten.convolution:
            inputs, weight, transposed = args[0], args[1], args[6]
            shared = inputs if transposed else result  # the whole weight is applied at each of its positions
            self.flops += shared.numel() // shared.shape[1] * weight.numel()
        elif func.overloadpacket in (aten.mm, aten.addmm):
            a, b = args[-2], args[-1]
            self.flops += a.numel() * b.shape[1]
        return result


def uses_attention(network: nn.Module, example: Tensor) -> bool:
    """Whether the network computes attention, in whichever module: a fused operator, or a softmax and products."""
    with _OperatorNames() as names, evaluation_mode(network, example[:1]):
        network(example[:1])
    fused = any("attention" in name or "transformer" in name for name in names.seen)
    return fused or {"_softmax", "bmm"} <= names.seen


class _OperatorNames(OperatorMode):
    """Records the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

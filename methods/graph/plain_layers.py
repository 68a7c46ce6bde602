"""Layers that compute their weight (weight norm, weight standardisation) as plain ones with the weight as it is.

Such a weight depends on all of the layer's inputs, so that one without some of them would be another weight. The plain
layer keeps what was computed; it is trained from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.graph.flow.call import named_arguments
from methods.graph.narrow import CONVOLUTIONS, TRANSPOSED, Conv, replace_module
from methods.graph.same_outputs import gives_same_outputs
from methods.graph.trace import evaluation_mode
from models.execution.forward_hooks import forward_hooks
from models.execution.inputs import Inputs
from models.execution.module_copies import copy_on_write
from models.execution.operator_mode import OperatorMode
from models.execution.tensor_leaves import first_tensor

FAR = 1e3  # a factor on inputs, beyond what layers that limit them let through
STEP = 1e-3  # of parameters, relative to their mean; of weights rounded to eight bits it changes few
MOVED = 0.995  # share of the weight's entries that a step has to change; rounding of floats hides a few changes
TURNED = 0.9  # share of entries whose part in their filter has to change; of weights of one bit only the scale does


class PaddedConv2d(nn.Conv2d):
    """A convolution that pads its input by other amounts on either side.

    Args:
        pads: left, right, top, bottom; None for as much as the size asks for (`padding="same"` of TensorFlow).
    """

    def __init__(self, *args: Any, pads: tuple[int, ...] | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pads = pads

    def forward(self, input: Tensor) -> Tensor:
        pads = self._pads_of(input.shape[-2:]) if self.pads is None else self.pads
        return super().forward(nn.functional.pad(input, pads))

    def _pads_of(self, size: torch.Size) -> list[int]:
        pads: list[int] = []
        for length, kernel, stride, dilation in zip(size, self.kernel_size, self.stride, self.dilation, strict=True):
            positions = -(-length // stride)
            lacking = max((positions - 1) * stride + (kernel - 1) * dilation + 1 - length, 0)
            pads[:0] = [lacking // 2, lacking - lacking // 2]  # the last dimension comes first
        return pads


@dataclass(frozen=True)
class _Product:
    """What a layer applies: a weight, as its module would hold it, and the arguments of a convolution."""

    weight: Tensor
    bias: Tensor | None
    convolution: dict[str, Any]


class _ProductCalls(OperatorMode):
    """The convolutions and matrix products of a layer's forward pass, and the padding of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Product] = []
        self.pads: tuple[int, ...] = ()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self.run_parts(func, args, kwargs or {})
        if result is not NotImplemented:
            return result
        name = func.overloadpacket.__name__
        if name == "constant_pad_nd":
            self.pads = tuple(args[1])
        elif name == "convolution":
            self.calls.append(_Product(args[1], args[2], named_arguments(func._schema, args, {})))
        elif name in ("mm", "addmm"):
            self.calls.append(_Product(args[-1].t(), args[0] if name == "addmm" else None, {}))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def plain_layer(layer: Conv | nn.Linear, shape: torch.Size) -> nn.Module | None:
    """A plain layer that does what `layer` does to inputs of that shape and of larger ones.

    Args:
        shape: of an input with one example.

    Returns:
        None if there is none, or if the layer applies its own parameter as it is.
    """
    twin = copy_on_write(layer).eval()
    like = next(parameter for parameter in twin.parameters() if parameter.dim() > 1)
    generator = torch.Generator().manual_seed(0)
    channels = len(shape) - 1 if isinstance(layer, nn.Linear) else 1
    larger = torch.Size(size + (d not in (0, channels)) for d, size in enumerate(shape))
    inputs = [torch.randn(size, generator=generator).to(like) for size in (shape, larger)]
    inputs.append(FAR * inputs[0])  # a layer that limits what it takes in shows here
    with _ProductCalls() as seen:
        outputs = [twin(inputs[0])]
    if len(seen.calls) != 1 or _same_memory(seen.calls[0].weight, twin._parameters.get("weight")):
        return None
    if not _is_free(layer, inputs[0]) or _draws_in_training(layer, inputs[0]):
        return None
    outputs += [twin(other) for other in inputs[1:]]
    for plain in _candidates(layer, seen):
        plain.train(layer.training)
        if all(map(_all_close, map(plain, inputs), outputs)):
            return plain
    return None


def _all_close(output: Tensor, wanted: Tensor) -> bool:
    if output.shape != wanted.shape:
        return False
    return torch.allclose(output, wanted, rtol=1e-4, atol=1e-6 * max(float(wanted.abs().max()), 1.0))


def _is_free(layer: nn.Module, inputs: Tensor) -> bool:
    """Whether each entry of the weight that is applied moves with the parameters: not if it is masked or rounded."""
    twin = copy_on_write(layer).eval()
    with _ProductCalls() as seen:
        twin(inputs)
        generator = torch.Generator().manual_seed(1)
        for parameter in twin.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            # A gain may be zero as yet (NFNets): nothing that is relative to it would move it.
            parameter.add_(STEP * (parameter.abs().mean() if parameter.any() else 1) * noise)
        twin(inputs)
    before, after = (call.weight.flatten(1) for call in seen.calls)
    turned = (F.normalize(before, dim=1) - F.normalize(after, dim=1)).abs() > 1e-6
    return float((before != after).float().mean()) > MOVED and float(turned.float().mean()) > TURNED


def _draws_in_training(layer: nn.Module, inputs: Tensor) -> bool:
    """Whether outputs in training depend on random numbers."""
    outputs = []
    for seed in range(2):
        with torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else []):
            torch.manual_seed(seed)
            outputs.append(copy_on_write(layer).train()(inputs))
    return not torch.equal(*outputs)


def _same_memory(tensor: Tensor, parameter: Tensor | None) -> bool:
    return parameter is not None and tensor.data_ptr() == parameter.data_ptr()


def _candidates(layer: Conv | nn.Linear, seen: _ProductCalls) -> Iterator[nn.Module]:
    """Plain layers with the weight that was applied: padded as it was, or as the size asks for."""
    (product,) = seen.calls
    layers: list[nn.Module] = []
    if isinstance(layer, nn.Linear):
        layers.append(nn.Linear(layer.in_features, layer.out_features, product.bias is not None, device="meta"))
    else:
        kind = next(kind for kind in (*CONVOLUTIONS, *TRANSPOSED) if isinstance(layer, kind))
        names = ["stride", "padding", "dilation", "groups", *(["output_padding"] if kind in TRANSPOSED else [])]
        arguments = {name: product.convolution[name] for name in names}
        arguments |= {"in_channels": layer.in_channels, "out_channels": layer.out_channels, "device": "meta"}
        arguments |= {"kernel_size": tuple(product.weight.shape[2:]), "bias": product.bias is not None}
        if not seen.pads:
            layers.append(kind(**arguments))
        if kind is nn.Conv2d:
            layers += [PaddedConv2d(**arguments, pads=pads) for pads in ([seen.pads] if seen.pads else []) + [None]]
    trained = {name for name, parameter in layer.named_parameters() if parameter.requires_grad}
    for plain in layers:
        plain.weight = nn.Parameter(product.weight.detach().clone(), requires_grad=bool(trained - {"bias"}))
        if product.bias is not None:
            trains = "bias" in trained or "bias" not in layer._parameters
            plain.bias = nn.Parameter(product.bias.detach().clone(), requires_grad=trains)
        yield plain


def computed_weights(network: nn.Module, example: Inputs) -> dict[str, torch.Size]:
    """Layers that compute their weight and that a plain layer can stand for -> the shape of one input."""
    twin = copy_on_write(network)
    layers = [(name, module) for name, module in twin.named_modules() if isinstance(module, (Conv, nn.Linear))]
    suspects = {name: module for name, module in layers if _computes_weight(module)}
    if not suspects:
        return {}
    shapes: dict[str, torch.Size] = {}

    def note_shape(name: str, _module: nn.Module, inputs: Any) -> None:
        shapes.setdefault(name, first_tensor(inputs).shape)

    hooks = [(module, partial(note_shape, name)) for name, module in suspects.items()]
    with forward_hooks(before=hooks), evaluation_mode(twin, example.device):
        example.first().clone()(twin)
    found = {name: shape for name, shape in shapes.items() if plain_layer(suspects[name], shape) is not None}
    twin = copy_on_write(network)
    replace_computed(twin, found)
    return found if gives_same_outputs(network, twin, example) else {}


def _computes_weight(layer: nn.Module) -> bool:
    """A weight that is no parameter (weight norm), or a forward pass of the layer's own."""
    return "weight" not in layer._parameters or not type(layer).forward.__module__.startswith("torch.nn.")


def replace_computed(network: nn.Module, shapes: Mapping[str, torch.Size]) -> None:
    """Put plain layers in the place of those named, in place."""
    for name, shape in shapes.items():
        layer = network.get_submodule(name)
        if (
            isinstance(layer, (Conv, nn.Linear))
            and _computes_weight(layer)
            and (plain := plain_layer(layer, shape)) is not None
        ):
            # The hook of `nn.utils.weight_norm` goes with the old layer, as it computes the weight.
            replace_module(network, name, plain, move_hooks=False)

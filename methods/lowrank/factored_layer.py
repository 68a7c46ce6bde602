"""A layer as two or three plain ones in a row: a projection of its channels, its core, and an expansion."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from methods.graph.narrow import CONVOLUTIONS, TRANSPOSED, Conv, Side, channels_of
from methods.graph.torch_layers import torch_class, why_altered
from methods.lowrank.decomposition import Factors

INPUTS, CORE, OUTPUTS = "inputs", "core", "outputs"
_POINTWISE: dict[type[nn.Module], type[Conv]] = {
    **{kind: kind for kind in CONVOLUTIONS},
    **dict(zip(TRANSPOSED, CONVOLUTIONS, strict=True)),
}


class FactoredLayer(nn.Sequential):
    """Plain layers `inputs` (C → r₁, pointwise), `core` (r₁ → r₂, the layer's geometry), `outputs` (r₂ → N, pointwise).

    `inputs` or `outputs` may be absent. The last layer has the bias. Between them stands nothing, so that a layer that
    pads does so behind `inputs`: a projection of padding is padding.
    """

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The input goes by the name that it has in torch's layers. Other arguments (`output_size`) are the core's."""
        x = input
        for name, part in self._modules.items():
            assert part is not None
            x = part(x, *args, **kwargs) if name == CORE else part(x)
        return x

    @property
    def weight(self) -> Tensor:
        """The product of the factors, shaped as the layer's weight was; for losses that penalise it."""
        parts = dict(self.named_children())
        transposed = getattr(parts[CORE], "transposed", False)
        product = parts[CORE].weight
        assert isinstance(product, Tensor)
        product = product.transpose(0, 1) if transposed else product  # (r2, r1, ...)
        if INPUTS in parts:
            product = torch.einsum("or...,rc->oc...", product, _matrix_of(parts[INPUTS]))
        if OUTPUTS in parts:
            product = torch.einsum("or...,no->nr...", product, _matrix_of(parts[OUTPUTS]))
        return product.transpose(0, 1) if transposed else product

    @property
    def bias(self) -> Tensor | None:
        bias = self[-1].bias
        assert bias is None or isinstance(bias, Tensor)
        return bias


def _matrix_of(pointwise: nn.Module) -> Tensor:
    assert isinstance(pointwise.weight, Tensor)
    return pointwise.weight.flatten(1)


class LayerWithoutWeight(FactoredLayer):
    """For trials: code that applies the weight itself must not find it, as a product of factors saves nothing there."""

    @property
    def weight(self) -> Tensor:
        raise AttributeError("weight")


def why_not_plain(module: nn.Module) -> str | None:
    """Why a layer cannot be taken apart; None for a plain linear layer or convolution in one group."""
    kind = torch_class(module)
    if kind is None:
        return "not a convolution or linear layer"
    return "it works in groups" if getattr(module, "groups", 1) > 1 else why_altered(module, kind)


def weight_by_output(layer: nn.Module) -> Tensor:
    """The weight as (N, C, K), float64 on the CPU."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    table = weight.detach().cpu().double().flatten(2) if weight.dim() > 2 else weight.detach().cpu().double()[..., None]
    return table.transpose(0, 1) if getattr(layer, "transposed", False) else table


def outline_layer(layer: nn.Module, in_rank: int, out_rank: int) -> FactoredLayer:
    """The factored layer of a plain one, with weights that are yet to be set; full ranks leave a part out."""
    parts: dict[str, nn.Module] = {}
    bias = layer.bias is not None
    weight = layer.weight
    assert isinstance(weight, Tensor)
    where = {"device": weight.device, "dtype": weight.dtype}
    inputs, outputs = channels_of(layer, "in"), channels_of(layer, "out")
    last = out_rank == outputs
    if in_rank < inputs:
        parts[INPUTS] = _pointwise(layer, inputs, in_rank, bias=False, **where)
    parts[CORE] = _core(layer, in_rank, out_rank, bias=bias and last, **where)
    if not last:
        parts[OUTPUTS] = _pointwise(layer, out_rank, outputs, bias=bias, **where)
    factored = FactoredLayer()
    for name, part in parts.items():
        factored.add_module(name, part)
    for parameter in factored.parameters():
        parameter.requires_grad_(weight.requires_grad)
    return factored.train(layer.training)


@torch.no_grad()
def surround_layer(layer: nn.Module) -> FactoredLayer:
    """The layer itself as the core, between a projection and an expansion of full ranks that change nothing."""
    factored = FactoredLayer()
    sides: dict[str, Side | None] = {INPUTS: "in", CORE: None, OUTPUTS: "out"}
    for name, side in sides.items():
        if side is None:
            factored.add_module(name, layer)
            continue
        width, weight = channels_of(layer, side), layer.weight
        assert isinstance(weight, Tensor)
        part = _pointwise(layer, width, width, bias=False, device=weight.device, dtype=weight.dtype)
        assert isinstance(part.weight, Tensor)
        part.weight.copy_(torch.eye(width).view_as(part.weight))
        factored.add_module(name, part)
    return factored.train(layer.training)


def _pointwise(layer: nn.Module, inputs: int, outputs: int, **options: Any) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return skip_init(nn.Linear, inputs, outputs, **options)
    kind = torch_class(layer)
    assert kind is not None
    return skip_init(_POINTWISE[kind], inputs, outputs, 1, **options)


def _core(layer: nn.Module, inputs: int, outputs: int, **options: Any) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return skip_init(nn.Linear, inputs, outputs, **options)
    assert isinstance(layer, Conv)
    kind = torch_class(layer)
    assert kind is not None
    geometry: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation,
                                "padding_mode": layer.padding_mode}  # fmt: skip
    if layer.transposed:
        geometry["output_padding"] = layer.output_padding
    return skip_init(kind, inputs, outputs, layer.kernel_size, **geometry, **options)


@torch.no_grad()
def factor_layer(layer: nn.Module, factors: Factors, bias: Tensor | None) -> FactoredLayer:
    """The layer with these factors, made orthonormal but for the core, and this bias, (N,).

    A step of gradient descent on the core is then the dense layer's, projected (`factored_rates.py`).
    """
    factors = factors.orthonormal()
    r2, r1, _ = factors.core.shape
    factored = outline_layer(layer, r1, r2)
    for name, part in factored.named_children():
        matrix = {INPUTS: factors.inputs, CORE: factors.core, OUTPUTS: factors.outputs}[name]
        assert matrix is not None
        assert isinstance(part.weight, Tensor)
        if name == CORE and getattr(layer, "transposed", False):
            matrix = matrix.transpose(0, 1)
        part.weight.copy_(matrix.reshape(part.weight.shape))
    if bias is not None:
        last = factored[-1].bias
        assert isinstance(last, Tensor)
        last.copy_(bias)
    return factored

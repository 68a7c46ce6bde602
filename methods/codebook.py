"""A convolution whose 2-D kernels come from a codebook: what KSE and kernel clustering share."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.vector_quantizer import transformed


def handled(module: nn.Module) -> str | None:
    """Why a module cannot be turned into a `CodebookConv2d`; None if it can."""
    if not isinstance(module, nn.Conv2d):
        return "not a 2-D convolution"
    own = type(module).forward is nn.Conv2d.forward and type(module)._conv_forward is nn.Conv2d._conv_forward
    if not own or "weight" not in module._parameters:
        return "its weight or its forward pass is not that of a plain convolution"
    if not module.weight.is_floating_point():
        return "its weight is not floating point"
    return None


class CodebookConv2d(nn.Module):
    """`nn.Conv2d` with weight[n, c] = scale[n, c] * codeword[index[n, c]].

    Codewords are the rows of `bank` (Q, Kh·Kw) under the symmetries of `orders` (t, Kh·Kw), Q·t in all, and after
    them one row of zeros that no gradient moves. `bank` may be shared between layers. With `inputs`, only those
    input channels are read, in that order, in equal number for every group; the others cost nothing.
    Gradients follow from the indexing: a row's is the sum over the kernels that point to it.
    """

    bank: nn.Parameter
    scale: nn.Parameter | None
    bias: nn.Parameter | None
    index: Tensor  # (N, C / groups) int32
    inputs: Tensor | None  # (C kept,) int64
    orders: Tensor | None

    def __init__(self, conv: nn.Conv2d, bank: nn.Parameter, index: Tensor, *, scale: Tensor | None = None,
                 inputs: Tensor | None = None, orders: Tensor | None = None) -> None:  # fmt: skip
        super().__init__()
        self.in_channels, self.out_channels, self.groups = conv.in_channels, conv.out_channels, conv.groups
        self.kernel_size, self.padding_mode = conv.kernel_size, conv.padding_mode
        self.geometry: dict[str, Any] = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation,
                                         "groups": conv.groups}  # fmt: skip
        self._edges = tuple(conv._reversed_padding_repeated_twice)  # for padding modes other than zeros
        self.bank = bank
        self.scale = None if scale is None else nn.Parameter(scale)
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone())
        self.register_buffer("index", index.to(torch.int32))
        self.register_buffer("inputs", inputs)
        self.register_buffer("orders", orders)
        self.train(conv.training)

    def expand(self) -> Tensor:
        """The dense weight of the inputs that are read, (N, C kept / groups, Kh, Kw)."""
        rows = self.bank if self.orders is None else transformed(self.bank, self.orders)
        rows = F.pad(rows, (0, 0, 0, 1))
        weight = F.embedding(self.index, rows)  # (N, C kept / groups, Kh·Kw); its backward has no atomic additions
        if self.scale is not None:
            weight = weight * self.scale[..., None]
        return weight.unflatten(2, self.kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        if self.inputs is not None:
            x = _select(x, self.inputs)
        geometry = self.geometry
        if self.padding_mode != "zeros":
            x, geometry = F.pad(x, self._edges, mode=self.padding_mode), {**geometry, "padding": 0}
        return F.conv2d(x, self.expand(), self.bias, **geometry)

    def extra_repr(self) -> str:
        read = self.in_channels if self.inputs is None else len(self.inputs)
        return (
            f"{read} of {self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, rows={len(self.bank)}"
        )


def _select(x: Tensor, channels: Tensor) -> Tensor:
    """The named channels of (B, C, H, W), in the memory format of `x`."""
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        return x.permute(0, 2, 3, 1).index_select(3, channels).permute(0, 3, 1, 2)
    return x.index_select(1, channels)


def expanded(layer: CodebookConv2d) -> nn.Conv2d:
    """The same layer as a plain dense convolution; dropped inputs become zero weights."""
    size: Any = layer.kernel_size
    conv = nn.Conv2d(layer.in_channels, layer.out_channels, size, bias=layer.bias is not None, **layer.geometry,
                     padding_mode=layer.padding_mode, device=layer.bank.device, dtype=layer.bank.dtype)  # fmt: skip
    with torch.no_grad():
        weight, per_group = layer.expand(), layer.in_channels // layer.groups
        if layer.inputs is None:
            conv.weight.copy_(weight)
        else:
            conv.weight.zero_()
            kept = (layer.inputs % per_group).view(layer.groups, -1)
            split = weight.unflatten(0, (layer.groups, -1))  # (groups, N / groups, kept per group, Kh, Kw)
            for g in range(layer.groups):
                conv.weight.unflatten(0, (layer.groups, -1))[g][:, kept[g]] = split[g]
        if conv.bias is not None and layer.bias is not None:
            conv.bias.copy_(layer.bias)
    return conv.train(layer.training)


def codebook_layers(network: nn.Module) -> dict[str, CodebookConv2d]:
    """The compressed convolutions of a network, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, CodebookConv2d)}


def replace_module(network: nn.Module, name: str, new: nn.Module) -> None:
    """Put `new` where `name` is, and wherever else the same module stands."""
    old = network.get_submodule(name)
    for parent in list(network.modules()):
        for child, module in list(parent._modules.items()):  # named_children names a module only once
            if module is old:
                setattr(parent, child, new)

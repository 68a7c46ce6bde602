"""A convolution whose 2-D kernels come from a codebook, for KSE and kernel clustering."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.tables.vector_quantizer import transform_centers


def why_unsupported(module: nn.Module) -> str | None:
    """Why a module cannot be turned into a `CodebookConv2d`; None if it can."""
    if not isinstance(module, nn.Conv2d):
        return "not a 2-D convolution"
    plain = type(module).forward is nn.Conv2d.forward and type(module)._conv_forward is nn.Conv2d._conv_forward
    if not plain or "weight" not in module._parameters:
        return "its weight or its forward pass is not that of a plain convolution"
    if not module.weight.is_floating_point():
        return "its weight is not floating point"
    return None


class CodebookConv2d(nn.Module):
    """`nn.Conv2d` with weight[n, c] = scale[n, c] * codeword[index[n, c]].

    Codewords are the rows of `bank` (Q, Kh·Kw) under the symmetries of `orders` (t, Kh·Kw), Q·t in all, followed by a
    row of zeros that receives no gradient: pruned kernels and kernels of unread channels point there. `bank` may be
    shared between layers. The gradient of a row is the sum over the kernels that point to it.
    """

    bank: nn.Parameter
    scale: nn.Parameter | None
    bias: nn.Parameter | None
    index: Tensor  # (N, C / groups) int32
    orders: Tensor | None

    def __init__(
        self,
        conv: nn.Conv2d,
        bank: nn.Parameter,
        index: Tensor,
        *,
        scale: Tensor | None = None,
        orders: Tensor | None = None,
    ) -> None:
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
        self.register_buffer("orders", orders)
        self.train(conv.training)

    def expand_weight(self) -> Tensor:
        """The dense weight, (N, C / groups, Kh, Kw)."""
        codewords = self.bank if self.orders is None else transform_centers(self.bank, self.orders)
        codewords = F.pad(codewords, (0, 0, 0, 1))
        weight = F.embedding(self.index, codewords)  # (N, C / groups, Kh·Kw); its backward has no atomic additions
        if self.scale is not None:
            weight = weight * self.scale[..., None]
        return weight.unflatten(2, self.kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        # Unread input channels are convolved with zeros: selecting the read ones first takes longer than convolving
        # all, up to twice the dense layer's time on a CPU.
        geometry = self.geometry
        if self.padding_mode != "zeros":
            x, geometry = F.pad(x, self._edges, mode=self.padding_mode), {**geometry, "padding": 0}
        return F.conv2d(x, self.expand_weight(), self.bias, **geometry)

    def read_channels(self) -> Tensor:
        """(C,) bool: whether an input channel has a kernel that does not point to the row of zeros."""
        words = len(self.bank) * (1 if self.orders is None else len(self.orders))
        return (self.index < words).unflatten(0, (self.groups, -1)).any(1).flatten()

    def extra_repr(self) -> str:
        read = int(self.read_channels().sum())
        return (
            f"{read} of {self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, rows={len(self.bank)}"
        )


def expand_layer(layer: CodebookConv2d) -> nn.Conv2d:
    """The same layer as a plain dense convolution."""
    size: Any = layer.kernel_size
    conv = nn.Conv2d(layer.in_channels, layer.out_channels, size, bias=layer.bias is not None, **layer.geometry,
                     padding_mode=layer.padding_mode, device=layer.bank.device, dtype=layer.bank.dtype)  # fmt: skip
    with torch.no_grad():
        conv.weight.copy_(layer.expand_weight())
        if conv.bias is not None and layer.bias is not None:
            conv.bias.copy_(layer.bias)
    return conv.train(layer.training)


def swap_sides(table: Tensor, groups: int) -> Tensor:
    """A row for each filter (N, C / groups, ...) -> a row for each input channel (C, N / groups, ...), and back."""
    return table.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)


def kernels_by_input(weight: Tensor, groups: int) -> Tensor:
    """(N, C / groups, Kh, Kw) -> (C, N / groups, Kh·Kw)."""
    return swap_sides(weight.flatten(2), groups)


def codebook_layers(network: nn.Module) -> dict[str, CodebookConv2d]:
    """The compressed convolutions of a network, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, CodebookConv2d)}


def replace_module(network: nn.Module, name: str, new: nn.Module) -> None:
    """Replace the module called `name` by `new`, under all names that it has."""
    old = network.get_submodule(name)
    for parent in list(network.modules()):
        for child, module in list(parent._modules.items()):  # named_children names a module only once
            if module is old:
                setattr(parent, child, new)

"""A convolution whose kernels come from a codebook, for KSE and kernel clustering; in 1, 2 or 3 dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.graph.narrow import Conv
from methods.graph.narrow import replace_module as replace_module
from methods.graph.torch_layers import torch_class, why_altered
from methods.tables.vector_quantizer import transform_centers

_FUNCTIONS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.Conv3d: F.conv3d,
    nn.ConvTranspose1d: F.conv_transpose1d,
    nn.ConvTranspose2d: F.conv_transpose2d,
    nn.ConvTranspose3d: F.conv_transpose3d,
}


def why_unsupported(module: nn.Module) -> str | None:
    """Why a module cannot be turned into a `CodebookConv`; None if it can."""
    kind = torch_class(module)
    return why_altered(module, kind) if kind in _FUNCTIONS and kind is not None else "not a convolution"


class CodebookConv(nn.Module):
    """A convolution, or a transposed one, with weight[n, c] = scale[n, c] * codeword[index[n, c]].

    Codewords are the rows of `bank` (Q, K), K = Kh·Kw, under the symmetries of `orders` (t, K), Q·t in all, followed by
    a row of zeros that receives no gradient: pruned kernels and kernels of unread channels point there. `bank` may be
    shared between layers. The gradient of a row is the sum over the kernels that point to it.
    """

    bank: nn.Parameter
    scale: nn.Parameter | None
    bias: nn.Parameter | None
    index: Tensor  # (N, C / groups) int32
    orders: Tensor | None

    def __init__(
        self,
        conv: Conv,
        bank: nn.Parameter,
        index: Tensor,
        *,
        scale: Tensor | None = None,
        orders: Tensor | None = None,
    ) -> None:
        super().__init__()
        kind = torch_class(conv)
        assert kind is not None
        self.kind, self.transposed = kind, conv.transposed
        self.in_channels, self.out_channels, self.groups = conv.in_channels, conv.out_channels, conv.groups
        self.kernel_size, self.padding_mode = conv.kernel_size, conv.padding_mode
        self.geometry: dict[str, Any] = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation,
                                         "groups": conv.groups}  # fmt: skip
        if conv.transposed:
            self.geometry["output_padding"] = conv.output_padding
        self._edges = tuple(conv._reversed_padding_repeated_twice)  # for padding modes other than zeros
        self.bank = bank
        self.scale = None if scale is None else nn.Parameter(scale)
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone())
        self.register_buffer("index", index.to(torch.int32))
        self.register_buffer("orders", orders)
        self.train(conv.training)

    def expand_weight(self) -> Tensor:
        """The dense weight, (N, C / groups, Kh, Kw), of a transposed convolution (C, N / groups, Kh, Kw)."""
        codewords = self.bank if self.orders is None else transform_centers(self.bank, self.orders)
        codewords = F.pad(codewords, (0, 0, 0, 1))
        weight = F.embedding(self.index, codewords)  # (N, C / groups, K); its backward has no atomic additions
        if self.scale is not None:
            weight = weight * self.scale[..., None]
        if self.transposed:
            weight = swap_sides(weight, self.groups)
        return weight.unflatten(2, self.kernel_size)

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """`output_size`: as a transposed convolution takes it."""
        # Unread input channels are convolved with zeros: selecting the read ones first takes longer than convolving
        # all, up to twice the dense layer's time on a CPU.
        geometry = self.geometry
        if self.padding_mode != "zeros":
            x, geometry = F.pad(x, self._edges, mode=self.padding_mode), {**geometry, "padding": 0}
        if output_size is not None:
            geometry = {**geometry, "output_padding": self._fit_padding(x.shape, output_size)}
        return _FUNCTIONS[self.kind](x, self.expand_weight(), self.bias, **geometry)

    def _fit_padding(self, shape: torch.Size, output_size: Sequence[int]) -> list[int]:
        """What is added at the end of each dimension, so that the outputs have this size."""
        dims = len(self.kernel_size)
        sizes = zip(shape[-dims:], output_size[-dims:], self.kernel_size,
                    *(self.geometry[name] for name in ("stride", "padding", "dilation")), strict=True)  # fmt: skip
        return [wanted - ((size - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1)
                for size, wanted, kernel, stride, padding, dilation in sizes]  # fmt: skip

    def read_channels(self) -> Tensor:
        """(C,) bool: whether an input channel has a kernel that does not point to the row of zeros."""
        words = len(self.bank) * (1 if self.orders is None else len(self.orders))
        return (self.index < words).unflatten(0, (self.groups, -1)).any(1).flatten()

    def extra_repr(self) -> str:
        read = int(self.read_channels().sum())
        return (
            f"{read} of {self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, rows={len(self.bank)}"
        )


def expand_layer(layer: CodebookConv) -> Conv:
    """The same layer as a plain dense convolution."""
    size: Any = layer.kernel_size
    conv: Any = layer.kind(layer.in_channels, layer.out_channels, size, bias=layer.bias is not None, **layer.geometry,
                     padding_mode=layer.padding_mode, device=layer.bank.device, dtype=layer.bank.dtype)  # fmt: skip
    with torch.no_grad():
        conv.weight.copy_(layer.expand_weight())
        if conv.bias is not None and layer.bias is not None:
            conv.bias.copy_(layer.bias)
    expanded: Conv = conv.train(layer.training)
    return expanded


def swap_sides(table: Tensor, groups: int) -> Tensor:
    """A row for each filter (N, C / groups, ...) -> a row for each input channel (C, N / groups, ...), and back."""
    return table.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)


def kernels_by_output(conv: Conv) -> Tensor:
    """The kernels of a convolution with a row for each filter, (N, C / groups, K)."""
    kernels = conv.weight.detach().flatten(2)
    return swap_sides(kernels, conv.groups) if conv.transposed else kernels


def kernels_by_input(conv: Conv) -> Tensor:
    """The kernels of a convolution with a row for each input channel, (C, N / groups, K)."""
    kernels = conv.weight.detach().flatten(2)
    return kernels if conv.transposed else swap_sides(kernels, conv.groups)


def kernel_area(layer: Conv | CodebookConv) -> int:
    """K, the number of weights in each of a convolution's kernels."""
    return math.prod(layer.kernel_size)


def codebook_layers(network: nn.Module) -> dict[str, CodebookConv]:
    """The compressed convolutions of a network, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, CodebookConv)}

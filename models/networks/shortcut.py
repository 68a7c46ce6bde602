"""The parameter-free shortcut of CIFAR ResNets (option A), in a form whose two sides can be pruned apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init


class PadShortcut(nn.Module):
    """Subsamples by `stride`; every output channel is then one of the input channels, or zero.

    `source` (out_channels,) names the input channel of each output, -1 for zeros. Fresh, the new channels are padded
    half on each side. Nothing of it is stored in a state dict: an allocation determines it.
    """

    source: Tensor

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        if out_channels < in_channels:
            raise ValueError(f"a padded shortcut cannot narrow {in_channels} channels to {out_channels}")
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        source = torch.full((out_channels,), -1)
        before = (out_channels - in_channels) // 2
        source[before : before + in_channels] = torch.arange(in_channels)
        self.register_buffer("source", source, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        x = x[:, :, :: self.stride, :: self.stride]
        x = F.pad(x, (0, 0, 0, 0, 0, 1))  # one channel of zeros at the end, which is where -1 points
        return x.index_select(1, self.source.remainder(self.in_channels + 1))

    def as_convolution(self) -> nn.Conv2d:
        """The same as a pointwise convolution with a kernel of zeros and ones, for runtimes that run those faster.

        It takes multiplications, which `forward` does not, and at least one channel on either side.
        """
        convolution = skip_init(nn.Conv2d, self.in_channels, self.out_channels, 1, self.stride, bias=False)
        picks = self.source.cpu()[:, None] == torch.arange(self.in_channels)  # -1 picks none
        convolution.weight.data = picks[..., None, None].to(convolution.weight)
        return convolution.requires_grad_(False)

    def keep_out(self, indices: Tensor) -> None:
        """Keep the output channels `indices`, in that order."""
        self.source = self.source[indices.to(self.source.device)]
        self.out_channels = len(self.source)

    def keep_in(self, indices: Tensor) -> None:
        """The input now holds only its former channels `indices`; outputs whose input is gone become zero."""
        indices_here = indices.to(self.source.device)
        renumbered = torch.full((self.in_channels + 1,), -1, device=self.source.device)  # its last entry maps -1 to -1
        renumbered[indices_here] = torch.arange(len(indices_here), device=self.source.device)
        self.source = renumbered[self.source]
        self.in_channels = len(indices_here)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, stride={self.stride}"

"""The least-squares repair of a layer that lost some of its inputs.

For a layer y = W x with inputs of mean μ and covariance Σ (`methods/moments/layer_inputs.py`), the weights on a subset
S of the inputs that come nearest to the dense outputs in the mean square are

    W' = W Σ[:, S] Σ[S, S]⁻¹        b' = b + W μ − W' μ[S]

(He et al., ICCV 2017, arXiv 1707.06168, for channels). Σ is measured once, on the dense network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from methods.graph.narrow import Conv
from methods.graph.torch_layers import taps_of
from methods.moments.layer_inputs import Moments, grouped_weights


def columns_of(module: nn.Module) -> int:
    """The number of adjacent entries of x that belong to one input channel."""
    return 1 if getattr(module, "transposed", False) else taps_of(module)


@torch.no_grad()
def repair_layer(small: nn.Module, dense: nn.Module, moments: Moments, stays_in: Tensor, stays_out: Tensor) -> None:
    """Give `small`, a narrowed copy of `dense`, the weights whose outputs are nearest to the dense ones; in place.

    Args:
        stays_in: (input channels,) bool, those that `small` still has; groups keep equally many.
        stays_out: (output channels,) bool, likewise.
    """
    weights, sigma, mean = grouped_weights(dense), moments.covariance(), moments.mean
    groups = len(weights)
    assert isinstance(small, nn.Linear | Conv)
    taps, overlap, transposed = 1, 1, False
    if isinstance(small, Conv) and small.transposed:
        # An output sums as many taps as the kernel has for each step of the stride.
        taps, overlap, transposed = math.prod(small.kernel_size), math.prod(small.stride), True
    inner = stays_in.view(groups, -1).repeat_interleave(columns_of(dense), 1)  # (groups, d)
    outer = stays_out.view(groups, -1).repeat_interleave(taps, 1)
    fitted, shifts = [], []
    for full, s, mu, keep, outputs in zip(weights, sigma, mean, inner, outer, strict=True):
        full = full[outputs]
        factor = torch.linalg.cholesky(s[keep][:, keep])  # Σ[S, S] W'ᵀ = Σ[S, :] Wᵀ
        fitted.append(torch.cholesky_solve(s[keep] @ full.T, factor).T)
        shifts.append(full @ mu - fitted[-1] @ mu[keep])
    small.weight.copy_(torch.cat([rows.T if transposed else rows for rows in fitted]).view_as(small.weight))
    if small.bias is not None:
        small.bias.add_((torch.cat(shifts).unflatten(0, (-1, taps)).sum(1) / overlap).to(small.bias))


def channel_columns(index: Iterable[int], channels: int, module: nn.Module) -> Iterator[tuple[int, Tensor]]:
    """For each input channel in `index`: its group and its columns of that group's x."""
    width, size = channels // getattr(module, "groups", 1), columns_of(module)
    for channel in index:
        yield channel // width, torch.arange(channel % width * size, (channel % width + 1) * size)

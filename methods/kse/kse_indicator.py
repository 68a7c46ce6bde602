"""KSE's indicator: how many of an input channel's kernels must stay (CVPR 2019, arXiv 1812.04368, eq. 3 to 9).

Kernels are laid out by input channel, (C, N, K); N is the number of filters that read the channel. This follows the
paper's formulas; its code reshapes where it must transpose, and so measures filters instead of channels.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

HELD = 1 << 22  # distances held at a time, in double


def kernel_sparsity(kernels: Tensor) -> Tensor:
    """s_c = Σ_n ‖W[n, c]‖₁, (C,)."""
    return kernels.abs().sum((1, 2))


def neighbour_distances(kernels: Tensor, neighbours: int) -> Tensor:
    """dm_n, the sum of the distances to the nearest other kernels of the channel, (C, N)."""
    channels, size, dim = kernels.shape
    nearest = min(neighbours, size - 1)
    if nearest == 0:
        return kernels.new_zeros(channels, size)
    if dim == 1:
        return _density_on_line(kernels[..., 0], nearest)
    pieces = kernels.split(max(1, HELD // (size * size)))
    return torch.cat([_density_in_space(piece, nearest) for piece in pieces])


def _density_in_space(kernels: Tensor, nearest: int) -> Tensor:
    # Without matrix products: |x|² + |y|² - 2xy would lose the small distances, which decide here.
    distance = torch.cdist(kernels, kernels, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.topk(nearest + 1, dim=2, largest=False).values.sum(2)  # among them the distance 0 to itself


def _density_on_line(values: Tensor, nearest: int) -> Tensor:
    """Without a distance matrix: the nearest are j neighbours below and the others above, for the best j."""
    ordered, order = values.sort(dim=1)
    lower = [torch.zeros_like(ordered)]  # [j]: sum of the distances to the j next lower values, inf if there are fewer
    upper = [torch.zeros_like(ordered)]
    for j in range(1, nearest + 1):
        gap = ordered[:, j:] - ordered[:, :-j]
        lower.append(lower[-1] + torch.nn.functional.pad(gap, (j, 0), value=math.inf))
        upper.append(upper[-1] + torch.nn.functional.pad(gap, (0, j), value=math.inf))
    best = lower[0] + upper[nearest]
    for j in range(1, nearest + 1):
        best = torch.minimum(best, lower[j] + upper[nearest - j])
    return torch.empty_like(best).scatter_(1, order, best)


def kernel_entropy(density: Tensor) -> Tensor:
    """e_c = -Σ p log₂ p with p = dm / Σ dm; 0 where all dm are 0: (C, N) -> (C,)."""
    total = density.sum(1, keepdim=True)
    share = torch.where(total > 0, density / total, 0)
    return -torch.special.xlogy(share, share).sum(1) / math.log(2)


def normalise_range(values: Tensor) -> Tensor:
    """Min-max normalisation over the channels; a constant vector becomes ones."""
    low, high = values.aminmax()
    return (values - low) / (high - low) if high > low else torch.ones_like(values)


def channel_indicator(kernels: Tensor, alpha: float = 1.0, neighbours: int = 5) -> npt.NDArray[np.float64]:
    """v_c in [0, 1] of every input channel of a convolution, from its kernels: (C, N / groups, K) -> (C,)."""
    kernels = kernels.detach().double()
    s = normalise_range(kernel_sparsity(kernels))
    e = normalise_range(kernel_entropy(neighbour_distances(kernels, neighbours)))
    values: npt.NDArray[np.float64] = normalise_range(torch.sqrt(s / (1 + alpha * e))).cpu().numpy()
    return values


def channel_grades(v: npt.NDArray[np.float64], G: int) -> npt.NDArray[np.int64]:
    """(C,) the grade of each channel: 0 drops it, 1 to G - 1 cluster its kernels, G keeps all."""
    grade: npt.NDArray[np.int64] = np.where(np.floor(v * G) == 0, 0, np.ceil(v * G)).astype(np.int64)
    return grade


def kept_kernels(v: npt.NDArray[np.float64], G: int, T: int, N: int) -> npt.NDArray[np.int64]:
    """q_c, the number of distinct kernels of each channel (eq. 10): 0 drops the channel, N keeps all."""
    grade = channel_grades(v, G)
    shared = np.ceil(N / 2.0 ** (G - grade + T))
    q: npt.NDArray[np.int64] = np.where(grade == 0, 0, np.where(grade == G, N, shared)).astype(np.int64)
    return q

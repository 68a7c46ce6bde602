"""Starting centroids for k-means by Ward's agglomeration, batched over many small sets of points.

Every point starts as a cluster. The merges that raise the squared error least are made until k clusters remain.
Ward's criterion is reducible (a merged cluster is never closer to a third one than the nearer of its parts was), so
that all pairs of mutual nearest neighbours can merge at once. There is no randomness, and after a few Lloyd steps the
error is markedly smaller than from k-means++ where k is of the order of N, as in KSE.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

MERGED_PER_ROUND = 0.35  # share of the merges still to do: costly pairs wait, as a cheaper partner may turn up


def _merge_cost(centers: Tensor, sizes: Tensor) -> Tensor:
    """(B, M, d), (B, M) -> (B, M, M): rise of the squared error by merging clusters; inf for dead ones and i = j."""
    norms = centers.square().sum(-1)
    cost = torch.baddbmm(norms[:, :, None], centers, centers.transpose(1, 2), alpha=-2).add_(norms[:, None])
    inverse = 1 / sizes  # inf for dead clusters (size 0); n_i n_j / (n_i + n_j) = 1 / (1/n_i + 1/n_j)
    cost.clamp_min_(0).div_(inverse[:, :, None] + inverse[:, None])
    dead = sizes == 0
    cost.masked_fill_(dead[:, None] | dead[:, :, None], math.inf)
    cost.diagonal(dim1=1, dim2=2).fill_(math.inf)
    return cost


def _cheapest_merges(candidates: Tensor, cost: Tensor, merges: Tensor) -> Tensor:
    """The cheapest of the `candidates` (B, M) bool: a share of the number of `merges` (B,) still to do."""
    quota = torch.where(merges > 0, (merges * MERGED_PER_ROUND).ceil().clamp_min(1), 0)
    order = torch.where(candidates, cost, math.inf).argsort(dim=1, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return candidates & (rank < quota[:, None])


def _mutual_pairs(centers: Tensor, sizes: Tensor, merges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Batch index, first and second cluster of every merge of this round."""
    cost, nearest = _merge_cost(centers, sizes).min(-1)  # (B, M)
    position = torch.arange(centers.shape[1], device=centers.device)
    mutual = (nearest.gather(1, nearest) == position) & (position < nearest) & cost.isfinite()
    # Rounding may break the symmetry of exact ties; the cheapest pair of all is always allowed.
    stuck = ~mutual.any(1)
    mutual[stuck, cost.argmin(1)[stuck]] = True
    batch, first = _cheapest_merges(mutual, cost, merges).nonzero(as_tuple=True)
    return batch, first, nearest[batch, first]


def _drop_dead(centers: Tensor, sizes: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Living clusters moved to the front of each row, in order, and rows cut off at `width`."""
    keep = (sizes > 0).to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]
    return centers.gather(1, keep[..., None].expand(-1, -1, centers.shape[2])), sizes.gather(1, keep)


def ward_centers(points: Tensor, counts: Sequence[int]) -> Iterator[Tensor]:
    """Cluster means (B, k, d) for each k of the falling `counts`, of points (B, N, d), N at least k.

    The matrix of merge costs, (B, N, N), is held: callers bound B·N².
    """
    mean = points.mean(1, keepdim=True)  # centred: smaller numbers, less cancellation in the distances
    centers, sizes = points - mean, points.new_ones(points.shape[:2])
    for count in counts:
        merges = (sizes > 0).sum(1) - count  # (B,) merges to do
        while merges.any():
            batch, i, j = _mutual_pairs(centers, sizes, merges)
            weight_i, weight_j = sizes[batch, i, None], sizes[batch, j, None]
            centers[batch, i] = (centers[batch, i] * weight_i + centers[batch, j] * weight_j) / (weight_i + weight_j)
            sizes[batch, i] += sizes[batch, j]
            sizes[batch, j] = 0
            merges -= torch.bincount(batch, minlength=len(merges))
            alive = int((sizes > 0).sum(1).max())
            if alive < 0.8 * sizes.shape[1]:  # rarer would waste distances, more often would waste copies
                centers, sizes = _drop_dead(centers, sizes, alive)
        centers, sizes = _drop_dead(centers, sizes, count)
        yield centers + mean


def _local_minima(cost: Tensor) -> Tensor:
    """(B, M) bool: where a cost is below the previous one and not above the next one."""
    edge = cost.new_full((len(cost), 1), math.inf)
    after = torch.cat([cost[:, 1:], edge], 1)
    before = torch.cat([edge, cost[:, :-1]], 1)
    return (cost < before) & (cost <= after) & cost.isfinite()


def ward_centers_sorted(points: Tensor, count: int) -> Tensor:
    """`ward_centers` on a line: points (B, N), sorted in each row -> means (B, k), sorted; O(N log N) per row."""
    centers, sizes = points.clone(), torch.ones_like(points)
    merges = sizes.new_full((len(points),), points.shape[1] - count)
    while merges.any():
        size, after = sizes[:, :-1], sizes[:, 1:]
        cost = (centers[:, 1:] - centers[:, :-1]).square() * (size * after / (size + after).clamp_min(1))
        cost = torch.where((size > 0) & (after > 0), cost, math.inf)
        batch, i = _cheapest_merges(_local_minima(cost), cost, merges).nonzero(as_tuple=True)
        weight_i, weight_j = sizes[batch, i], sizes[batch, i + 1]
        centers[batch, i] = (centers[batch, i] * weight_i + centers[batch, i + 1] * weight_j) / (weight_i + weight_j)
        sizes[batch, i] += weight_j
        sizes[batch, i + 1] = 0
        merges -= torch.bincount(batch, minlength=len(merges))
        # Dead clusters are dropped in every round, so that neighbours on the line are neighbours in the tensor.
        alive = int((sizes > 0).sum(1).max())
        compacted, sizes = _drop_dead(centers[..., None], sizes, alive)
        centers = compacted[..., 0]
    return centers

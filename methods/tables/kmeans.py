"""k-means over many small sets of points at once: (B, N, d) -> B sets of k centroids.

Lloyd's steps follow Ward's clusters, without randomness. On a line (1×1 kernels) all steps work on sorted values.
The result of a set does not depend on the other sets of the batch, but for rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.tables.ward import ward_centers, ward_centers_sorted

FLOATS_HELD = 1 << 23  # floats of a distance matrix that may be held at a time
MAX_STEPS = 25
TOLERANCE = 1e-4  # a set is done when a step reduces its squared error by less than this share


def kmeans(points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cluster every set of `points` (B, N, d), 0 < k <= N: centroids (B, k, d), and each point's centroid (B, N)."""
    _, size, dim = points.shape
    assert 0 < k <= size
    solve = _kmeans_on_line if dim == 1 else _kmeans_in_space
    floats = size * 16 if dim == 1 else size * size
    chunks = points.float().split(max(1, FLOATS_HELD // floats))
    solved = [solve(chunk, k) for chunk in chunks] or [(points.new_zeros(0, k, dim), points.new_zeros(0, size).long())]
    return torch.cat([centers for centers, _ in solved]), torch.cat([labels for _, labels in solved])


def squared_error(points: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    """(B, N, d), (B, k, d), (B, N) -> (B,) the squared error that k-means minimises."""
    return (points - take_rows(centers, labels)).square().sum((1, 2))


def take_rows(table: Tensor, labels: Tensor) -> Tensor:
    """(B, k, d), (B, N) -> (B, N, d): the row of `table` that each label names."""
    return table.gather(1, labels[..., None].expand(-1, -1, table.shape[2]))


def _cluster_means(points: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """The mean of each cluster; empty clusters are moved by `_reseed_empty`."""
    # As a product with the one-hot assignment: unlike atomic additions, the same on every run on a GPU too.
    member = points.new_zeros(*points.shape[:2], centers.shape[1]).scatter_(2, labels[..., None], 1.0)
    counts = member.sum(1)  # (B, k)
    means = (member.transpose(1, 2) @ points) / counts.clamp_min(1)[..., None]
    return _reseed_empty(points, means, labels, counts == 0)


def _reseed_empty(points: Tensor, centers: Tensor, labels: Tensor, empty: Tensor) -> Tensor:
    """Move each empty cluster to a point of its own, of those farthest from their centroids."""
    if not empty.any():
        return centers
    farthest = (points - take_rows(centers, labels)).square().sum(-1).argsort(dim=1, descending=True, stable=True)
    turn = (empty.cumsum(1) - 1).clamp_min(0)
    return torch.where(empty[..., None], take_rows(points, farthest.gather(1, turn)), centers)


def _nearest_centers(points: Tensor, centers: Tensor) -> Tensor:
    """(B, N) the nearest centroid, by |x - c|² without the term |x|², which is the same for all."""
    half = centers.square().sum(-1) / 2
    return torch.baddbmm(half[:, None], points, centers.transpose(1, 2), alpha=-1).min(-1).indices


def _kmeans_in_space(points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    centers = next(ward_centers(points, [k]))
    labels = _nearest_centers(points, centers)
    error = squared_error(points, centers, labels)
    active = torch.arange(len(points), device=points.device)
    for _ in range(MAX_STEPS):
        moved = _cluster_means(points[active], labels[active], centers[active])
        relabelled = _nearest_centers(points[active], moved)
        lower = squared_error(points[active], moved, relabelled)
        better = lower < error[active]
        going = lower < error[active] * (1 - TOLERANCE)
        chosen = active[better]
        centers[chosen], labels[chosen], error[chosen] = moved[better], relabelled[better], lower[better]
        active = active[going]
        if not len(active):
            break
    return centers, labels


def _cluster_bounds(points: Tensor, centers: Tensor) -> Tensor:
    """(B, k + 1) the positions at which clusters begin and end among the sorted points."""
    inner = torch.searchsorted(points, ((centers[:, 1:] + centers[:, :-1]) / 2).contiguous())
    ends = inner.new_tensor([0, points.shape[1]]).expand(len(points), 2)
    return torch.cat([ends[:, :1], inner, ends[:, 1:]], 1)


def _kmeans_on_line(points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    ordered, order = points[..., 0].sort(dim=1)
    centers = ward_centers_sorted(ordered, k)
    running = torch.nn.functional.pad(ordered.double().cumsum(1), (1, 0))  # double: sums are differences of these
    cuts = _cluster_bounds(ordered, centers)
    for _ in range(MAX_STEPS):
        counts = cuts.diff(dim=1)
        centers = (running.gather(1, cuts).diff(dim=1) / counts.clamp_min(1)).to(ordered.dtype)
        if (counts == 0).any():
            labels = _labels_on_line(cuts, ordered.shape[1])
            centers = (
                _reseed_empty(ordered[..., None], centers[..., None], labels, counts == 0)[..., 0].sort(dim=1).values
            )
        previous, cuts = cuts, _cluster_bounds(ordered, centers)
        if torch.equal(previous, cuts):
            break
    labels = torch.empty_like(order).scatter_(1, order, _labels_on_line(cuts, ordered.shape[1]))
    return centers[..., None], labels


def _labels_on_line(cuts: Tensor, size: int) -> Tensor:
    positions = torch.arange(size, device=cuts.device).repeat(len(cuts), 1)
    return torch.searchsorted(cuts[:, 1:-1].contiguous(), positions, right=True)

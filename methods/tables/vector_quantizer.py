"""Codebooks for very many points: k-means in which a point may match a flipped or rotated centroid.

Points are flattened kernels, (N, K). A codeword is a transformed centroid: codeword i·t + s is centroid i under
symmetry s of t. Distances are computed in pieces, so that their matrix is never held as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.tables.ward import ward_centers

SEEDING_POINTS = 2048  # Ward's starting clusters are made from a sample of this size (or 4 points per centroid)
POINTS_PER_CENTROID = 256  # size of the sample for the first, cheap Lloyd steps; the last steps see all points
# Most Lloyd steps, and the share of the squared error by which a step must reduce it for another one to follow.
FIRST_STEPS, FIRST_TOLERANCE = 40, 2e-4
POLISH_STEPS, POLISH_TOLERANCE = 10, 5e-5


@dataclass(frozen=True)
class Codebook:
    """Centroids (k, d), and each point's codeword (N,)."""

    centers: Tensor
    codewords: Tensor


def kernel_symmetries(shape: Sequence[int], count: int) -> Tensor:
    """(t, K) the flat order in which symmetry s reads a kernel of this shape; t is `count`, or as many as there are.

    1 is the identity; 2 adds the flip of the last dimension, 4 that of the one before and both, 8 the same with the
    first of three dimensions flipped, or of the transposed kernel if it is square.
    """
    plain = torch.arange(math.prod(shape)).view(*shape)
    orders = [plain]
    for dim in reversed(range(plain.dim())):
        orders += [order.flip(dim) for order in orders]
    if plain.dim() == 2 and shape[0] == shape[1]:
        orders += [order.t() for order in orders]
    return torch.stack([order.reshape(-1) for order in orders[:count]])


def transform_centers(centers: Tensor, orders: Tensor) -> Tensor:
    """All codewords of (k, d) centroids under (t, d) symmetries: (k·t, d)."""
    return centers[:, orders].flatten(0, 1)


def quantize_points(points: Tensor, codewords: Tensor, previous: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The nearest codeword of each point (N,), and the sum of the squared distances, a double scalar."""
    piece = max(1, (1 << (26 if points.is_cuda else 21)) // len(codewords))  # 8 MiB of scores on a CPU, 256 on a GPU
    half = codewords.square().sum(1) / 2
    labels = torch.empty(len(points), dtype=torch.long, device=points.device)
    total = points.new_zeros((), dtype=torch.double)
    for start in range(0, len(points), piece):
        chunk = slice(start, start + piece)
        score = torch.addmm(half, points[chunk], codewords.t(), alpha=-1)  # (piece, k·t): |x - c|²/2 - |x|²/2
        if previous is None:
            lowest, labels[chunk] = score.min(1)
        else:
            lowest, labels[chunk] = _refresh_labels(score, previous[chunk])
        total += (2 * lowest + points[chunk].square().sum(1)).clamp_min_(0).sum(dtype=torch.double)
    return labels, total


def _refresh_labels(score: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
    """`score.min(1)`, fast where most points keep their codeword: amin alone is far cheaper than min with argmin."""
    lowest = score.amin(1)
    moved = (score.gather(1, previous[:, None])[:, 0] > lowest).nonzero()[:, 0]
    labels = previous.clone()
    labels[moved] = score[moved].argmin(1)
    return lowest, labels


def _bucket_sums(points: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Sums (count, d) and sizes (count,) of the points with each label, in double."""
    sizes = torch.bincount(labels, minlength=count)
    if not points.is_cuda:
        values = points.double()
        columns = [torch.bincount(labels, values[:, j].contiguous(), count) for j in range(points.shape[1])]
        return torch.stack(columns, 1), sizes
    sums = points.new_zeros(count, points.shape[1], dtype=torch.double)
    piece = max(1, (1 << 26) // count)  # products with one-hot rows: the same on every run, unlike atomic additions
    for chunk, ids in zip(points.split(piece), labels.split(piece), strict=True):
        sums += chunk.new_zeros(len(chunk), count).scatter_(1, ids[:, None], 1.0).t() @ chunk
    return sums, sizes


def recentre_clusters(points: Tensor, centers: Tensor, orders: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of each centroid's members, their symmetries undone; empty centroids stay, and are listed."""
    k, t = len(centers), len(orders)
    sums, sizes = _bucket_sums(points, labels, k * t)
    back = orders.argsort(1).expand(k, t, -1)
    sums = sums.view(k, t, -1).gather(2, back).sum(1)  # linear, so that sums can be transformed instead of points
    sizes = sizes.view(k, t).sum(1)
    means = (sums / sizes.clamp_min(1)[:, None]).to(points.dtype)
    return torch.where(sizes[:, None] > 0, means, centers), (sizes == 0).nonzero()[:, 0]


def _update_centers(points: Tensor, centers: Tensor, orders: Tensor, labels: Tensor) -> Tensor:
    """`recentre_clusters`, with empty centroids moved to the points that are farthest from theirs."""
    means, empty = recentre_clusters(points, centers, orders, labels)
    if len(empty):
        means[empty] = _farthest_points(points, transform_centers(centers, orders), labels, len(empty))
    return means


def _farthest_points(points: Tensor, codewords: Tensor, labels: Tensor, count: int) -> Tensor:
    pieces = zip(points.split(1 << 18), labels.split(1 << 18), strict=True)
    distance = torch.cat([(chunk - codewords[ids]).square().sum(1) for chunk, ids in pieces])
    return points[distance.sort(descending=True, stable=True).indices[:count]]


def run_lloyd(points: Tensor, centers: Tensor, orders: Tensor, steps: int, tolerance: float) -> tuple[Codebook, float]:
    """At most `steps` Lloyd steps: centroids with the codewords nearest to each point, and their squared error."""
    labels, error = quantize_points(points, transform_centers(centers, orders))
    for _ in range(steps):
        moved = _update_centers(points, centers, orders, labels)
        relabelled, lower = quantize_points(points, transform_centers(moved, orders), labels)
        if lower >= error:
            break
        done = lower > error * (1 - tolerance)
        centers, labels, error = moved, relabelled, lower
        if done:
            break
    return Codebook(centers, labels), float(error)


def _canonical_views(points: Tensor, orders: Tensor) -> Tensor:
    """Each point in the orientation with most weight in one corner, so that transformed copies become equal."""
    dim = points.shape[1]
    lean = torch.linspace(1, 0, dim, device=points.device) ** 2  # no symmetry of its own
    views = points[:, orders]  # (N, t, d)
    return views[torch.arange(len(points), device=points.device), (views @ lean).argmax(1)]


def _sample_points(points: Tensor, count: int, seed: int) -> Tensor:
    if count >= len(points):
        return points
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))[:count]
    return points[order.sort().values.to(points.device)]


def fit_codebooks(points: Tensor, counts: Sequence[int], orders: Tensor, seed: int) -> Iterator[Codebook]:
    """A codebook for each k of the falling `counts`, of points (N, d), N at least k; the same for the same seed."""
    orders = orders.to(points.device)
    start = _canonical_views(_sample_points(points, max(SEEDING_POINTS, 4 * counts[0]), seed), orders)
    for k, centers in zip(counts, ward_centers(start[None], counts), strict=True):
        few = _sample_points(points, POINTS_PER_CENTROID * k, seed + 1)
        book, _ = run_lloyd(few, centers[0], orders, FIRST_STEPS, FIRST_TOLERANCE)
        if len(few) < len(points):
            book, _ = run_lloyd(points, book.centers, orders, POLISH_STEPS, POLISH_TOLERANCE)
        yield book

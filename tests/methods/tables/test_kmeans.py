"""Batched k-means against scipy's Ward, every partition of small sets, and scikit-learn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.cluster import KMeans
from torch import Tensor

from methods.tables.kmeans import kmeans, squared_error
from methods.tables.ward import ward_centers, ward_centers_sorted


def random_points(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error_of(values: np.ndarray, labels: np.ndarray) -> float:
    return float(sum(((values[labels == i] - values[labels == i].mean(0)) ** 2).sum() for i in set(labels.tolist())))


def best_error(values: np.ndarray, k: int) -> float:
    """The least squared error of all ways to part the points into k."""
    ways = itertools.product(range(k), repeat=len(values))
    return min(error_of(values, np.array(way)) for way in ways if len(set(way)) == k)


def assert_consistent(x: Tensor, centers: Tensor, labels: Tensor) -> None:
    """Every point lies with its nearest centroid, every centroid is the mean of its points."""
    distance = torch.cdist(x.double(), centers.double())
    nearest = distance.gather(2, labels[..., None])[..., 0]
    torch.testing.assert_close(nearest, distance.min(2).values, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dim", [1, 2, 9])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_near_the_best_of_all_partitions(dim: int, k: int) -> None:
    x = random_points(10, 7, dim)
    centers, labels = kmeans(x, k)
    assert_consistent(x, centers, labels)
    error = squared_error(x, centers, labels).sum().item()
    best = sum(best_error(values.numpy().astype(float), k) for values in x)
    assert best - 1e-4 <= error <= 1.1 * best + 1e-4  # a local optimum; on average a few percent above the global one


@pytest.mark.parametrize(("size", "dim", "k"), [(64, 9, 32), (64, 9, 8), (200, 1, 100), (200, 1, 20), (33, 3, 16)])
def test_no_worse_than_scikit_learn(size: int, dim: int, k: int) -> None:
    x = random_points(8, size, dim)
    centers, labels = kmeans(x, k)
    assert_consistent(x, centers, labels)
    assert labels.max() < k
    theirs = sum(KMeans(k, n_init=1, random_state=0).fit(values.numpy()).inertia_ for values in x)
    assert squared_error(x, centers, labels).sum().item() <= theirs


@pytest.mark.parametrize("dim", [1, 4])
@pytest.mark.parametrize("k", [3, 20, 39])
def test_ward_is_close_to_scipys(dim: int, k: int) -> None:
    """Merging mutual nearest pairs together, in rounds, costs next to nothing against merging one at a time."""
    x = random_points(10, 40, dim).sort(1).values if dim == 1 else random_points(10, 40, dim)
    centers = ward_centers_sorted(x[..., 0], k)[..., None] if dim == 1 else next(ward_centers(x, [k]))
    assert centers.shape == (10, k, dim)
    nearest = torch.cdist(x, centers).argmin(2)
    ours = sum(error_of(values.numpy(), labels.numpy()) for values, labels in zip(x, nearest, strict=True))
    theirs = sum(
        error_of(values.numpy(), fcluster(linkage(values.double().numpy(), "ward"), k, "maxclust")) for values in x
    )
    assert ours <= 1.05 * theirs + 1e-6


@pytest.mark.parametrize("dim", [1, 9])
def test_repeated_points(dim: int) -> None:
    """More clusters than different points: nothing breaks, nothing is lost."""
    x = random_points(4, 3, dim).repeat(1, 10, 1)
    centers, labels = kmeans(x, 8)
    assert squared_error(x, centers, labels).max() < 1e-10
    zeros = torch.zeros(2, 6, dim)
    assert squared_error(zeros, *kmeans(zeros, 4)).tolist() == [0, 0]


@pytest.mark.parametrize("dim", [1, 9])
def test_sets_do_not_influence_each_other(dim: int) -> None:
    x = random_points(12, 32, dim)
    centers, labels = kmeans(x, 11)
    single = [kmeans(x[i : i + 1], 11) for i in range(12)]
    assert torch.equal(labels, torch.cat([label for _, label in single]))
    torch.testing.assert_close(centers, torch.cat([center for center, _ in single]))


def test_all_points_their_own_and_no_sets() -> None:
    x = random_points(3, 5, 4)
    assert squared_error(x, *kmeans(x, 5)).max() == 0
    centers, labels = kmeans(x[:0], 2)
    assert (centers.shape, labels.shape) == ((0, 2, 4), (0, 5))

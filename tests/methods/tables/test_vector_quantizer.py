"""Codebooks with symmetries against brute force, and numpy's own flips and rotations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from methods.tables import vector_quantizer
from methods.tables.vector_quantizer import (
    fit_codebooks,
    kernel_symmetries,
    quantize_points,
    run_lloyd,
    transform_centers,
)


def random_points(count: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("height", "width"), [(3, 3), (5, 5), (2, 2), (3, 1), (2, 5)])
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_symmetries(height: int, width: int, count: int) -> None:
    kernel = np.arange(height * width).reshape(height, width)
    images = {1: [kernel], 2: [kernel, np.fliplr(kernel)]}
    images[4] = [*images[2], np.flipud(kernel), np.rot90(kernel, 2)]
    images[8] = [*images[4], *(np.rot90(image) for image in images[4])] if height == width else images[4]
    expected = sorted(image.reshape(-1).tolist() for image in images[count])
    orders = kernel_symmetries((height, width), count)
    assert sorted(orders.tolist()) == expected
    assert orders[0].tolist() == list(range(height * width))
    flat = random_points(1, height * width)
    assert torch.equal(transform_centers(flat, orders), torch.stack([flat[0, order] for order in orders]))


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_symmetries_of_signals_and_clips_are_flips(shape: tuple[int, ...]) -> None:
    kernel = np.arange(math.prod(shape)).reshape(shape)
    axes = range(len(shape))
    flips = [np.flip(kernel, some).reshape(-1).tolist() for n in range(len(shape) + 1)
             for some in itertools.combinations(axes, n)]  # fmt: skip
    assert sorted(kernel_symmetries(shape, 8).tolist()) == sorted(flips)
    assert kernel_symmetries(shape, 2)[1].tolist() == np.flip(kernel, -1).reshape(-1).tolist()


@pytest.mark.parametrize("with_previous", [False, True])
def test_quantize_by_brute_force(with_previous: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, codewords = random_points(500, 9), random_points(37, 9, seed=1)
    distance = ((x[:, None].double() - codewords.double()) ** 2).sum(2)
    previous = torch.arange(500) % 37 if with_previous else None
    labels, total = quantize_points(x, codewords, previous)
    assert torch.equal(labels, distance.argmin(1))
    torch.testing.assert_close(total, distance.min(1).values.sum(), rtol=1e-5, atol=0)
    refreshed, _ = quantize_points(x, codewords, labels)
    assert torch.equal(refreshed, labels)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_update_by_brute_force(count: int) -> None:
    """One step: each centroid is the mean of its members, each pulled back by the inverse of its transform."""
    x, centers, orders = random_points(300, 9), random_points(6, 9, seed=1), kernel_symmetries((3, 3), count)
    before, _ = quantize_points(x, transform_centers(centers, orders))
    book, error = run_lloyd(x, centers, orders, steps=1, tolerance=0)
    for i in range(6):
        members = []
        for point, word in zip(x, before.tolist(), strict=True):
            if word // count == i:
                back = torch.empty(9)
                back[orders[word % count]] = point
                members.append(back)
        torch.testing.assert_close(book.centers[i], torch.stack(members).mean(0))
    assert error == pytest.approx(
        float((x - transform_centers(book.centers, orders)[book.codewords]).square().sum()), rel=1e-5
    )


def test_finds_planted_centroids_under_all_symmetries() -> None:
    orders, generator = kernel_symmetries((3, 3), 8), torch.Generator().manual_seed(0)
    planted = random_points(5, 9, seed=2)
    words = torch.randint(40, (400,), generator=generator)
    x = transform_centers(planted, orders)[words] + 1e-3 * random_points(400, 9, seed=3)
    book = next(fit_codebooks(x, [5], orders, seed=0))
    error = (x - transform_centers(book.centers, orders)[book.codewords]).square().sum()
    assert error < 400 * 9 * 1e-6 * 1.2  # nothing but the noise
    without = next(fit_codebooks(x, [5], orders[:1], seed=0))
    assert (x - without.centers[without.codewords]).square().sum() > 100 * error


def test_empty_clusters_start_anew() -> None:
    x = torch.cat([random_points(50, 4), random_points(50, 4, seed=1) + 20])
    far = torch.full((3, 4), 1e3)
    book, error = run_lloyd(x, torch.cat([x[:1], far]), torch.arange(4)[None], steps=20, tolerance=0)
    assert torch.bincount(book.codewords, minlength=4).min() > 0
    assert error < float((x - x.mean(0)).square().sum()) / 5


def test_samples_then_polishes_and_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer seeding points and points per centroid than there are points: the error stays near a full fit's."""
    x, orders = random_points(4000, 9), kernel_symmetries((3, 3), 2)
    full = [
        quantize_points(x, transform_centers(book.centers, orders))[1] for book in fit_codebooks(x, [32, 8], orders, 0)
    ]
    monkeypatch.setattr(vector_quantizer, "SEEDING_POINTS", 200)
    monkeypatch.setattr(vector_quantizer, "POINTS_PER_CENTROID", 20)
    few, again = (list(fit_codebooks(x, [32, 8], orders, 0)) for _ in range(2))
    for book, twin, reference in zip(few, again, full, strict=True):
        assert torch.equal(book.centers, twin.centers)
        assert quantize_points(x, transform_centers(book.centers, orders))[1] < 1.05 * reference

"""Drift from the dense outputs on blended images: by hand, label-free, and steadier than the loss."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import Tensor, nn

from models.data.array_images import ArrayImages
from models.data.named_sets import NAMED_SETS
from models.tasks.classification import CLASSIFICATION
from models.tasks.outputs import jensen_shannon
from models.tasks.pictures import blend_images
from search.judge.drift import Drift


def make_images(labels: Tensor) -> ArrayImages:
    pixels = torch.randint(0, 256, (30, 8, 8, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ArrayImages.on_device(pixels, labels, NAMED_SETS["digits"], torch.device("cpu"))


def drift_from(dense: nn.Module, images: ArrayImages) -> Drift:
    """On blends of the images."""

    def probes(count: int) -> Iterator[tuple[Tensor, None]]:
        return ((blend, None) for blend in blend_images(images.subset(torch.arange(min(count, len(images))))))

    return Drift(dense, CLASSIFICATION, probes)


@pytest.fixture
def images() -> ArrayImages:
    return make_images(torch.arange(30) % 10)


class _Linear(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.weight = scale * torch.randn(64, 10, generator=torch.Generator().manual_seed(1))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1) @ self.weight


def test_nothing_drifts_from_itself(images: ArrayImages) -> None:
    assert drift_from(_Linear(1.0), images)(_Linear(1.0)) == pytest.approx(0, abs=1e-12)


def test_it_is_the_mean_divergence_of_the_outputs(images: ArrayImages) -> None:
    dense, other = _Linear(0.05), _Linear(0.02)
    expected = 0.0
    for row in torch.cat(list(blend_images(images))):
        p, q = dense(row[None])[0].softmax(0).tolist(), other(row[None])[0].softmax(0).tolist()
        expected += jensenshannon(p, q) ** 2 / 30  # SciPy gives the distance, its square root
    assert drift_from(dense, images)(other) == pytest.approx(expected, rel=1e-4)
    assert expected > 1e-3


def test_an_output_that_is_wrong_beyond_doubt_counts_as_wrong_and_no_more() -> None:
    sure = torch.full((1, 3), -1e4)
    right, wrong = sure.clone(), sure.clone()
    right[0, 0], wrong[0, 1] = 0.0, 0.0
    assert float(jensen_shannon(right, wrong)) == pytest.approx(math.log(2))
    assert float(jensen_shannon(right, right)) == 0


def test_labels_do_not_matter_and_the_first_images_alone_can_be_asked_for(images: ArrayImages) -> None:
    relabelled = make_images(images.labels.flip(0))
    dense, other = _Linear(0.05), _Linear(0.02)
    drift = drift_from(dense, images)
    assert drift(other) == drift_from(dense, relabelled)(other)
    assert drift(other, 10) == drift_from(dense, images.subset(torch.arange(10)))(other)
    assert drift(other, 10) != drift(other)


def test_every_image_is_mixed_with_another_one(images: ArrayImages) -> None:
    ((inputs, _),) = images.batches(500)
    (blend,) = blend_images(images)
    assert torch.equal(blend, next(blend_images(images)))
    shares = []
    for mixed in blend.flatten(1):
        # mixed = s * a + (1 - s) * b for exactly one pair of different images: find it by trying all
        rows = inputs.flatten(1)
        fits = []
        for a in range(30):
            for b in range(30):
                if a != b:
                    direction = rows[a] - rows[b]
                    share = float((mixed - rows[b]) @ direction / (direction @ direction))
                    if torch.allclose(rows[b] + share * direction, mixed, atol=1e-4) and 0 < share < 1:
                        fits.append(share)
        assert fits
        shares.append(max(fits))
    assert 0.25 <= 1 - max(shares) <= 0.5
    assert max(shares) <= 0.76


def test_a_single_image_is_no_fault(images: ArrayImages) -> None:
    assert drift_from(_Linear(0.05), images)(_Linear(0.02), 1) > 0

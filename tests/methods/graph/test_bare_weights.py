"""Weights outside layers, and parts of a layer's channels, under every method that removes channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.registry import create

IMAGES = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class TwoMatrices(nn.Module):
    """A hidden width that two bare matrices alone have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 4)
        self.wide, self.back = nn.Parameter(torch.randn(12, 8)), nn.Parameter(torch.randn(8, 12))

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images).mean((2, 3))
        return torch.as_tensor(self.head(F.linear(torch.relu(F.linear(x, self.wide)), self.back)))


class SplitSkip(nn.Module):
    """The channels of one layer go two ways, in unequal parts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 16, 1), nn.Conv2d(10, 8, 1), nn.Conv2d(6, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        left, right = torch.relu(self.stem(images)).split([10, 6], 1)
        return torch.as_tensor(self.head((self.left(left) * self.right(right)).mean((2, 3))))


class BareGroups(nn.Module):
    """Two grouped convolutions with bare weights in one module, and a part of a bare vector."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.middle, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)
        self.first, self.second = nn.Parameter(torch.randn(8, 2, 3, 3)), nn.Parameter(torch.randn(8, 4, 3, 3))
        self.gains = nn.Parameter(torch.rand(16) + 0.5)

    def forward(self, images: Tensor) -> Tensor:
        x = F.conv2d(self.stem(images), self.first, padding=1, groups=4)
        x = F.conv2d(x, self.second, padding=1, groups=2) * self.gains[:8].view(1, 8, 1, 1)
        return torch.as_tensor(self.head(self.middle(x).mean((2, 3))))


class WithBuffers(nn.Module):
    """A bare weight whose channels stand in buffers and in a plain attribute as well."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.head = nn.Parameter(torch.randn(8, 3, 3, 3)), nn.Linear(8, 4)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("variance", torch.ones(8))
        self.gains = torch.rand(8) + 0.5

    def forward(self, images: Tensor) -> Tensor:
        x = F.conv2d(images, self.kernel, padding=1)
        x = F.batch_norm(x, self.mean, self.variance, training=self.training) * self.gains.view(1, 8, 1, 1)
        return torch.as_tensor(self.head(torch.relu(x).mean((2, 3))))


@pytest.mark.parametrize("method", ["l1", "l2", "fpgm", "bn-scale", "taylor", "random", "resrep", "obs"])
@pytest.mark.parametrize("kind", [TwoMatrices, SplitSkip, BareGroups, WithBuffers])
def test_every_method_narrows_them_or_says_why_not(kind: type[nn.Module], method: str) -> None:
    torch.manual_seed(0)
    compressor = create(method, kind(), IMAGES)
    if method in ("taylor", "obs"):
        compressor.calibrate([(IMAGES, torch.tensor([0, 1, 2, 3]))])
    levels = np.array([len(site.settings) // 2 for site in compressor.sites], dtype=np.intp)
    allocation = compressor.allocation(levels)
    small = compressor.compress(allocation)
    assert small(IMAGES).shape == (4, 4)
    names = {site.name for site in compressor.sites}
    assert names & {"stem", "wide", "middle", "first", "kernel"} or compressor.skipped


@pytest.mark.parametrize("method", ["l1", "l2"])
def test_the_weakest_filters_go_with_their_buffers(method: str) -> None:
    network = WithBuffers().eval()
    with torch.no_grad():
        network.kernel[[1, 4]] *= 0.01
    compressor = create(method, network, IMAGES)
    (site,) = compressor.sites
    small = compressor.compress(compressor.allocation(np.array([site.widths.index(6)], dtype=np.intp)))
    kept = [0, 2, 3, 5, 6, 7]
    for name in ("kernel", "mean", "gains"):
        torch.testing.assert_close(getattr(small, name), getattr(network, name)[kept])


def test_what_a_bare_grouped_convolution_takes_in_stays_with_its_line() -> None:
    compressor = create("l1", BareGroups(), IMAGES)
    assert [site.name for site in compressor.sites] == ["middle"]
    assert compressor.skipped["stem"].startswith("convolution in the network (test_bare_weights.py:")

"""What the cost model cannot tell beforehand stays dense: every other cost is what torch counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from methods.graph.trace import uncounted_flops
from methods.registry import create

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class AlongRows(nn.Module):
    """A linear layer along the rows of a map: each channel of `stem` is one of its positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.rows, self.last = nn.Conv2d(3, 12, 1), nn.Linear(8, 8), nn.Conv2d(12, 16, 3)
        self.head = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.last(torch.relu(self.rows(self.stem(images)))))
        return torch.as_tensor(self.head(x.mean((2, 3))))


class PartOfWeight(nn.Module):
    """Only some rows of a layer's weight are applied."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.part, self.last = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 8, 1), nn.Conv2d(6, 16, 3)
        self.head = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = F.conv2d(torch.relu(self.stem(images)), self.part.weight[:6])
        return torch.as_tensor(self.head(torch.relu(self.last(x)).mean((2, 3))))


class BankOfWeights(nn.Module):
    """The weight is a mixture of several, by what the image asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.router = nn.Conv2d(3, 12, 1), nn.Linear(12, 3)
        self.bank = nn.Parameter(torch.randn(3, 16, 12))
        self.head = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.stem(images)).mean((2, 3))
        mixed = torch.einsum("bk,koi->boi", self.router(x).softmax(1), self.bank)
        return torch.as_tensor(self.head(torch.relu(torch.einsum("boi,bi->bo", mixed, x))))


@pytest.mark.parametrize(
    ("kind", "sites"),
    [(AlongRows, {"stem", "last"}), (PartOfWeight, {"stem", "part", "last"}), (BankOfWeights, {"stem", "bank"})],
)
def test_savings_are_those_that_torch_counts(kind: type[nn.Module], sites: set[str]) -> None:
    torch.manual_seed(0)
    network = kind().eval()
    compressor = create("l1", network, IMAGES)
    for share in (0.3, 0.6, 1.0):
        levels = np.array([int(share * (len(site.settings) - 1)) for site in compressor.sites], dtype=np.intp)
        allocation = compressor.allocation(levels)
        small, cost = compressor.compress(allocation), compressor.cost_of(allocation)
        assert cost.params == sum(parameter.numel() for parameter in small.parameters())
        saved = _flops(network) - _flops(small)
        saved -= uncounted_flops(network, IMAGES) - uncounted_flops(small, IMAGES)
        assert compressor.cost.dense.flops - cost.flops == saved
    assert sites <= {site.name for site in compressor.sites}


def _flops(network: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(IMAGES)
    return counter.get_total_flops() // (2 * len(IMAGES))

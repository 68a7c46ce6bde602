"""torchvision's segmentation networks with random weights, whose outputs are a dictionary: half of their FLOPs."""

from __future__ import annotations

import copy

import pytest
import torch
from independent import count_cost
from torch import Tensor, nn
from torchvision.models import segmentation

from methods.dense_shares import dense_shares
from methods.filters.filter_pruning import FilterPruning
from methods.registry import create
from methods.testing.conformance import uniform_levels

IMAGES = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
CLASSES = 4


def narrow_to_half(network: nn.Module) -> tuple[FilterPruning, nn.Module]:
    """The method, and the network at kept 0.5: every site by the smallest ratio that meets it."""
    compressor = create("l1", network, IMAGES)
    assert isinstance(compressor, FilterPruning)
    allocations = (compressor.allocation(uniform_levels(compressor, ratio / 200)) for ratio in range(200))
    half = next(a for a in allocations if compressor.cost_of(a).flops <= 0.5 * compressor.cost.dense.flops)
    small = compressor.compress(half)
    counted = count_cost(small, IMAGES)
    assert compressor.cost_of(half) == counted
    assert 0.48 <= counted.flops / count_cost(network, IMAGES).flops <= 0.5
    return compressor, small


@pytest.mark.parametrize(("name", "auxiliary"), [("lraspp_mobilenet_v3_large", False),
                                                 ("deeplabv3_mobilenet_v3_large", True)])  # fmt: skip
def test_half_of_the_flops_are_kept_and_it_trains(name: str, auxiliary: bool) -> None:
    torch.manual_seed(0)
    options = {"aux_loss": True} if auxiliary else {}
    network = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=CLASSES, **options).eval()
    compressor, small = narrow_to_half(network)
    outputs: dict[str, Tensor] = small.eval()(IMAGES)
    assert {key: value.shape for key, value in outputs.items()} == dict.fromkeys(
        ["out", "aux"] if auxiliary else ["out"], torch.Size((2, CLASSES, 96, 96))
    )
    before = copy.deepcopy(small.state_dict())
    optimizer = torch.optim.SGD(small.parameters(), lr=0.01)
    labels = torch.randint(CLASSES, (2, 96, 96))
    sum(nn.functional.cross_entropy(maps, labels) for maps in small.train()(IMAGES).values()).backward()
    optimizer.step()
    still = [key for key, parameter in small.named_parameters() if torch.equal(before[key], parameter)]
    assert not still
    shares = dense_shares(compressor, compressor.skipped)
    assert sum(share.share for share in shares) < 0.05, shares

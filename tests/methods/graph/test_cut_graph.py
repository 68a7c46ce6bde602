"""Layers behind which the forward pass hides from autograd are said to be so, and not to be outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from methods.graph.channels import find_groups
from methods.graph.cut_graph import CUT_GRAPH


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        maps: Tensor = self.second(self.first(images).relu()).relu()
        return maps

    def classify(self, maps: Tensor) -> Tensor:
        output: Tensor = self.head(maps.mean((2, 3)))
        return output


class Reentrant(Net):
    def forward(self, images: Tensor) -> Tensor:
        images = images.detach().requires_grad_()
        return self.classify(checkpoint(self.features, images, use_reentrant=True))


class Inference(Net):
    def forward(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            return super().forward(images)


class Detached(Net):
    def classify(self, maps: Tensor) -> Tensor:
        return super().classify(maps.detach())


@pytest.mark.parametrize(("kind", "layer"), [(Reentrant, "second"), (Inference, "head"), (Detached, "second")])
def test_a_cut_is_told(kind: type[Net], layer: str) -> None:
    assert find_groups(kind(), torch.randn(2, 3, 6, 6))[1][layer] == CUT_GRAPH


def test_outputs_are_still_outputs() -> None:
    groups, skipped, _ = find_groups(Net(), torch.randn(2, 3, 6, 6))
    assert [group.name for group in groups] == ["first", "second"]
    assert skipped == {"head": "it is an output of the network"}

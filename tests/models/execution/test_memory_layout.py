"""Networks that need contiguous tensors, or compute something else on channels-last ones, stay contiguous."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.execution.memory_layout import choose_memory_format


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8 * 36, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images))

    def classify(self, maps: Tensor) -> Tensor:
        output: Tensor = self.head(maps.flatten(1))
        return output


class View(Net):
    def classify(self, maps: Tensor) -> Tensor:
        return super().classify(maps.view(maps.shape[0], -1))


class ViewOfInput(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.view(len(images), -1).view(images.shape))


class ViewInTraining(Net):
    def classify(self, maps: Tensor) -> Tensor:
        return super().classify(maps.view(maps.shape[0], -1) if self.training else maps)


class Strides(Net):
    """Runs in any order, but reads memory as if it were contiguous."""

    def classify(self, maps: Tensor) -> Tensor:
        return super().classify(torch.as_strided(maps, (len(maps), 8 * 36), (8 * 36, 1)))


class StridesInTraining(Strides):
    def classify(self, maps: Tensor) -> Tensor:
        return super().classify(maps) if self.training else Net.classify(self, maps)


class ViewInEvaluation(View):
    def classify(self, maps: Tensor) -> Tensor:
        return Net.classify(self, maps) if self.training else super().classify(maps)


class LastInputs(Net):
    """Weights in channels last do not take contiguous images, as an export's user would give them."""

    def forward(self, images: Tensor) -> Tensor:
        assert images.is_contiguous() == self.features[0].weight.is_contiguous()
        return super().forward(images)


class Exits(Net):
    def forward(self, images: Tensor) -> Tensor:
        if not images.is_contiguous():
            raise SystemExit(1)
        return super().forward(images)


class Dropped(Net):
    """Its outputs in training differ from call to call, so they say nothing about the order."""

    def classify(self, maps: Tensor) -> Tensor:
        return super().classify(nn.functional.dropout(maps, 0.5, self.training))


class Untrainable(Net):
    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        return super().forward(images)


def _images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", [Net, Dropped, Untrainable])
def test_channels_last_where_it_computes_the_same(kind: type[Net]) -> None:
    assert choose_memory_format(kind().eval(), _images()) == torch.channels_last


@pytest.mark.parametrize(
    "kind", [View, ViewOfInput, ViewInTraining, ViewInEvaluation, Strides, StridesInTraining, LastInputs, Exits]
)
def test_contiguous_where_the_code_needs_it(kind: type[Net]) -> None:
    assert choose_memory_format(kind().eval(), _images()) == torch.contiguous_format


def test_five_dimensional_weights_stay_contiguous() -> None:
    class Volumes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv3d(1, 2, 3)

        def forward(self, images: Tensor) -> Tensor:
            output: Tensor = self.conv(images[:, None])
            return output

    assert choose_memory_format(Volumes(), _images()) == torch.contiguous_format


def test_the_network_is_left_as_it_is() -> None:
    network = Net().eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    choose_memory_format(network, _images())
    assert torch.equal(torch.get_rng_state(), state)
    assert not network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert network.features[0].weight.is_contiguous()

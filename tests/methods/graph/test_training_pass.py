"""Networks that fail or go wrong in training without channels that evaluation can do without; and sound ones."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.graph.channel_sites import ChannelGroups
from methods.graph.steady_draws import SteadyDraws

IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class HoldsWidth(torch.autograd.Function):
    """The identity, whose gradient knows how many channels there were."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient.reshape(len(gradient), 16, 6, 6)


class InBackward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.held, self.last = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.last(HoldsWidth.apply(self.held(self.first(x)))))


class NoiseOfWidth(InBackward):
    def forward(self, x: Tensor) -> Tensor:
        x = self.held(self.first(x))
        if self.training:
            x = x + torch.randn(len(x), 16, 1, 1)
        return torch.as_tensor(self.last(x))


def test_what_does_not_train_without_its_channels_stays_dense() -> None:
    groups = ChannelGroups(InBackward(), IMAGES)
    assert [group.name for group in groups.groups] == ["first"]
    code = HoldsWidth.backward.__code__
    line = next(
        line for _, _, line in code.co_lines() if line and "16" in Path(__file__).read_text().splitlines()[line - 1]
    )
    where = f"the network (test_training_pass.py:{line})"
    assert groups.skipped["held"] == f"without its channels, {where} does not run in training"


def test_a_width_that_training_alone_names_is_replaced() -> None:
    network = NoiseOfWidth()
    groups = ChannelGroups(network, IMAGES)
    assert [group.name for group in groups.groups] == ["first", "held"]
    narrow, masked = copy.deepcopy(network), copy.deepcopy(network)
    groups.narrow_network(narrow, {"held": torch.arange(9)})
    with torch.no_grad():
        masked.last.weight[:, 9:] = 0
    outputs = []
    for trained in (narrow, masked):
        with SteadyDraws():
            outputs.append(trained.train()(IMAGES))
    torch.testing.assert_close(*outputs)


class InTraining(nn.Module):
    """Two layers, between which training does something that evaluation does not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1)
        self.drop, self.attention = nn.Dropout2d(0.4), nn.MultiheadAttention(16, 2, dropout=0.3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = F.relu(self.norm(self.first(x)))
        return self.finish(self.train_alone(x) if self.training else x)

    def finish(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return torch.as_tensor(self.last(x))

    def train_alone(self, x: Tensor) -> Tensor:
        return x


class Positions(InTraining):
    def train_alone(self, x: Tensor) -> Tensor:
        return x * torch.linspace(1, 2, x.shape[1]).view(1, -1, 1, 1)


class IfSixteen(InTraining):
    def train_alone(self, x: Tensor) -> Tensor:
        return x.tanh() if x.shape[1] == 16 else x


class IfFewer(InTraining):
    """The dense network trains as it evaluates."""

    def train_alone(self, x: Tensor) -> Tensor:
        return x if x.shape[1] == 16 else x.tanh()


class IfEven(InTraining):
    """Of the widths on trial only some are odd."""

    def train_alone(self, x: Tensor) -> Tensor:
        return x if x.shape[1] % 2 else x.tanh()


class Reversed(InTraining):
    """Draws an order of the channels."""

    def train_alone(self, x: Tensor) -> Tensor:
        return x * torch.randperm(x.shape[1]).view(1, -1, 1, 1)


@pytest.mark.parametrize("kind", [Positions, IfSixteen, IfFewer, IfEven, Reversed])
def test_what_training_alone_gets_wrong_stays_dense(kind: type[nn.Module]) -> None:
    groups = ChannelGroups(kind(), IMAGES)
    assert groups.groups == []
    assert groups.skipped["first"] == "removing its channels changes more than those channels in training"


class ReturnsFeatures(InTraining):
    def finish(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return (self.last(x), x) if self.training else torch.as_tensor(self.last(x))


def test_what_training_alone_returns_stays_dense() -> None:
    groups = ChannelGroups(ReturnsFeatures(), IMAGES[:1])
    assert groups.groups == []
    assert "the network's outputs" in groups.skipped["first"]


class Dropout(InTraining):
    def train_alone(self, x: Tensor) -> Tensor:
        return F.alpha_dropout(self.drop(F.dropout(x, 0.2)), 0.1)


class DropPath(InTraining):
    def train_alone(self, x: Tensor) -> Tensor:
        branch = x.tanh() * torch.empty(len(x), 1, 1, 1).bernoulli_(0.7) / 0.7
        return x + (branch.sin() if random.random() < 0.5 else branch.cos())


class Noise(InTraining):
    def train_alone(self, x: Tensor) -> Tensor:
        return x * torch.rand_like(x) + torch.randn(x.shape[1], 1, 1, dtype=x.dtype)


class DrawsInPlace(InTraining):
    def train_alone(self, x: Tensor) -> Tensor:
        noise = torch.empty_like(x).exponential_().log() + torch.poisson(x.detach().clamp(0, 5))
        spread = torch.distributions.LogNormal(0.0, 0.1).sample(x.shape).to(x)
        return x * spread + noise * torch.empty_like(x).log_normal_()


class UnknownDraws(InTraining):
    """Draws that stay random are no evidence."""

    def train_alone(self, x: Tensor) -> Tensor:
        return x * torch.multinomial(torch.ones(6), 6)


class Attention(InTraining):
    def train_alone(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return x + torch.as_tensor(self.attention(tokens, tokens, tokens)[0]).transpose(1, 2).reshape(x.shape)


class LayerDrop(InTraining):
    def train_alone(self, x: Tensor) -> Tensor:
        return x if torch.rand(1) < 0.3 else F.layer_norm(x.movedim(1, -1), (x.shape[1],)).movedim(-1, 1)


@pytest.mark.parametrize("kind", [InTraining, Dropout, DropPath, Noise, DrawsInPlace, UnknownDraws, LayerDrop])
@pytest.mark.parametrize("images", [IMAGES, IMAGES[:1]])
def test_random_numbers_in_training_are_no_fault(kind: type[nn.Module], images: Tensor) -> None:
    states = torch.get_rng_state(), random.getstate()
    network = kind()
    torch.set_rng_state(states[0])
    assert [group.name for group in ChannelGroups(network, images).groups] == ["first"]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


class AttentionAtPositions(Attention):
    """The number of a channel goes into what attention makes of it."""

    def train_alone(self, x: Tensor) -> Tensor:
        return super().train_alone(x) * torch.linspace(1, 2, x.shape[1]).view(1, -1, 1, 1)


def test_attention_of_training_alone_is_compared() -> None:
    assert "first" in {group.name for group in ChannelGroups(Attention(), IMAGES).groups}
    groups = ChannelGroups(AttentionAtPositions(), IMAGES)
    assert "first" not in {group.name for group in groups.groups}
    assert groups.skipped["first"] == "removing its channels changes more than those channels in training"


class PartOfTheBatch(InTraining):
    """Stochastic depth that computes with half of the images: a number that tells nothing of channels."""

    def train_alone(self, x: Tensor) -> Tensor:
        number = max(1, int(len(x) * 0.5))
        return torch.cat([x[:number].tanh(), x[number:]])


def test_numbers_of_training_alone_that_fit_by_themselves_are_left_to_the_code() -> None:
    network = PartOfTheBatch()
    groups = ChannelGroups(network, IMAGES)
    assert [group.name for group in groups.groups] == ["first"]
    narrow, masked = copy.deepcopy(network), copy.deepcopy(network)
    groups.narrow_network(narrow, {"first": torch.arange(9)})
    with torch.no_grad():
        masked.last.weight[:, 9:] = 0
    for number in (2, 4, 7):
        images = torch.randn(number, 3, 6, 6)
        torch.testing.assert_close(narrow.train()(images), masked.train()(images))

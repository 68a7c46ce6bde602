"""What evaluation on one image does not show: training, other images, and code that no pass reaches."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from channel_oracle import traced_units, units_among
from coupled_nets.pieces import CLASSES, conv, pool_mean
from torch import Tensor, nn

from methods.graph.channel_sites import ChannelGroups
from methods.graph.flow import channel_flow, passes

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Branches(nn.Module):
    """Two branches, each read by a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.y, self.z = conv(3, 6), conv(3, 6), conv(6, 5), conv(6, 5)
        self.fc = nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.meet(self.a(x), self.b(x))
        scores: Tensor = self.fc(torch.cat([pool_mean(self.y(a)), pool_mean(self.z(b))], 1))
        return scores

    def meet(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return a, b


class InTraining(Branches):
    def meet(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return (a + 0.1 * b, b) if self.training else (a, b)


class OnBrightImages(Branches):
    def meet(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return (self.rare(a), b) if a.abs().mean() > 2 else (a, b)

    def __init__(self) -> None:
        super().__init__()
        self.rare = conv(6, 6)


class OtherWeightOnBrightImages(OnBrightImages):
    """The same operators in the same code, with the weight of a layer that no other image takes."""

    def meet(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return F.conv2d(a, (self.rare if a.abs().mean() > 2 else self.common).weight), b

    def __init__(self) -> None:
        super().__init__()
        self.common, self.rare = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)


class Never(OnBrightImages):
    def meet(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return (self.rare(a), b) if a.mean() > 1e6 else (a, b)


class NeverOfList(Branches):
    def __init__(self) -> None:
        super().__init__()
        self.rare = nn.ModuleList([conv(6, 6), nn.Sequential(conv(6, 6), nn.BatchNorm2d(6))])

    def meet(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.rare if a.mean() > 1e6 else []:
            a = layer(a)
        return a, b


class Dead(Branches):
    """The branch that would run the layer is decided by what is no data."""

    def __init__(self) -> None:
        super().__init__()
        self.rare = conv(6, 6)
        self.deeper = False

    def meet(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return (self.rare(a), b) if self.deeper else (a, b)


A, B = [(side, "out") for side in ("a", "b")]
READ = {A, B, ("y", "in"), ("z", "in")}


def apart() -> set[frozenset[tuple[str, str, int]]]:
    return {frozenset({(p, "out", c), (r, "in", c)}) for p, r in (("a", "y"), ("b", "z")) for c in range(6)}


def test_channels_that_meet_in_training_alone_belong_together() -> None:
    both = {frozenset({("a", "out", c), ("y", "in", c), ("b", "out", c), ("z", "in", c)}) for c in range(6)}
    assert units_among(traced_units(Branches(), IMAGES), READ) == apart()
    assert units_among(traced_units(InTraining(), IMAGES), READ) == both
    assert {"a", "y", "z"} <= {site.name for site in ChannelGroups(InTraining(), IMAGES).sites}


def test_a_branch_that_other_images_take_is_traced() -> None:
    """The branch reads what `a` makes, and `y` reads either: they meet."""
    units = units_among(traced_units(OnBrightImages(), IMAGES), READ | {("rare", "in"), ("rare", "out")})
    assert units == {
        frozenset({("a", "out", c), ("rare", "in", c), ("rare", "out", c), ("y", "in", c)}) for c in range(6)
    } | {frozenset({("b", "out", c), ("z", "in", c)}) for c in range(6)}


def test_a_weight_that_other_images_take_is_traced() -> None:
    read = {("a", "out"), ("common", "in"), ("rare", "in")}
    units = units_among(traced_units(OtherWeightOnBrightImages(), IMAGES), read)
    assert units == {frozenset((name, side, c) for name, side in read) for c in range(6)}


@pytest.mark.parametrize(("kind", "layer"), [(Never, "rare"), (NeverOfList, "rare.0")])
def test_what_code_that_no_pass_reaches_could_be_given_stays(kind: type[nn.Module], layer: str) -> None:
    groups = ChannelGroups(kind(), IMAGES)
    assert groups.skipped["a"] == groups.skipped["b"] == f"{layer}, which no forward pass reached, could be given them"
    assert groups.skipped[layer] == "no forward pass on noise reached it"
    assert {site.name for site in groups.sites} == {"y", "z"}


def test_layers_that_no_data_could_bring_in_hold_nothing_back() -> None:
    groups = ChannelGroups(Dead(), IMAGES)
    assert groups.skipped["rare"] == "no forward pass on noise reached it"
    assert units_among(traced_units(Dead(), IMAGES), READ) == apart()


def test_training_that_does_not_run_is_not_traced() -> None:
    class NeedsTargets(Branches):
        def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor:
            if self.training:
                assert targets is not None, "targets are needed in training"
            return F.relu(super().forward(x))

    assert units_among(traced_units(NeedsTargets(), IMAGES), READ) == apart()


@pytest.mark.parametrize("steps", [0, 40])
def test_channels_that_are_not_followed_in_time_stay(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Time is over at once, or amid the network; the cost is that of the network all the same."""

    class Loops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            for _ in range(100):
                x = x + 1
            return torch.as_tensor(self.c(self.b(x)))

    ticks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: float(next(ticks)))
    monkeypatch.setattr(passes, "TRACE_PATIENCE", float(steps))
    monkeypatch.setattr(passes, "time", clock)
    monkeypatch.setattr(channel_flow, "time", clock)
    groups = ChannelGroups(Loops(), torch.randn(1, 3, 5, 5))
    assert groups.sites == ()
    assert set(groups.skipped) == {"a", "b", "c"}
    assert "could not be followed in time" in groups.skipped["b"]
    assert groups.cost.dense.flops == 25 * (3 * 8 + 8 * 6 + 6 * 4)

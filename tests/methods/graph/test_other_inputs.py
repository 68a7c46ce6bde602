"""Code that other images run, or a batch of another size: the trial compares there too, where the network runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from coupled_nets.pieces import CLASSES, SHAPE, conv, pool_mean
from torch import Tensor, nn

from methods.graph.channel_sites import ChannelGroups
from methods.graph.other_inputs import BRIGHTNESS, find_other_inputs
from models.execution.inputs import Inputs

IMAGES = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
CHANGES = "removing its channels changes more than those channels in"


class MixedWhere(nn.Module):
    """Channels change places, though only for some images; shapes stay as they are, so that nothing fails."""

    def __init__(self, is_mixed: Callable[[Tensor], bool] = lambda _: False) -> None:
        super().__init__()
        self.a, self.b, self.fc = conv(3, 8), conv(8, 6), nn.Linear(6, CLASSES)
        self.is_mixed = is_mixed

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.is_mixed(x)
        x = self.a(x).relu()
        return self.fc(pool_mean(self.b(self.mix(x) if mixed else x).relu()))

    def mix(self, x: Tensor) -> Tensor:
        return x.roll(1, 1)


class RandomThere(MixedWhere):
    """Other images get noise, one number for every channel: nothing that could be compared."""

    def mix(self, x: Tensor) -> Tensor:
        return x + torch.randn(x.shape[1], 1, 1, dtype=x.dtype)


class InfiniteThere(MixedWhere):
    def mix(self, x: Tensor) -> Tensor:
        return x / 0


class FailsThere(MixedWhere):
    """Eight channels are asked for."""

    def mix(self, x: Tensor) -> Tensor:
        return x + torch.ones(8, 1, 1, dtype=x.dtype)


BRANCHES: dict[str, tuple[Callable[[Tensor], bool], str]] = {
    "larger": (lambda x: x.shape[-1] > 8, "images of another size"),
    "smaller": (lambda x: x.shape[-1] < 8, "images of another size"),
    "batch": (lambda x: len(x) > 2, "a batch of another size"),
    "bright": (lambda x: float(x.abs().mean()) > 3, "images of another brightness"),
    "dark": (lambda x: bool(x.abs().max() < 0.5), "images of another brightness"),
    "portrait": (lambda x: x.shape[2] > x.shape[3], "images of another size"),
    "large batch": (lambda x: len(x) > 4, "a batch of another size"),
    "positive": (lambda x: float(x.mean()) > 0.4, "images of another brightness"),
    "read as a list": (lambda x: sum(x.mean((0, 2, 3)).tolist()) > 1.2, "images of another brightness"),
    "grey": (lambda x: torch.equal(x[:, 0], x[:, 1]), "images of another brightness"),
}


@pytest.mark.parametrize("branch", BRANCHES)
def test_channels_that_other_inputs_mix_stay(branch: str) -> None:
    is_mixed, kind = BRANCHES[branch]
    groups = ChannelGroups(MixedWhere(is_mixed), IMAGES)
    assert [group.name for group in groups.groups] == ["b"]
    assert groups.skipped["a"] == f"{CHANGES} {kind}"


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("build", [RandomThere, InfiniteThere])
def test_what_cannot_be_compared_is_no_fault(build: type[MixedWhere], branch: str) -> None:
    groups = ChannelGroups(build(BRANCHES[branch][0]), IMAGES)
    assert [group.name for group in groups.groups] == ["a", "b"]


@pytest.mark.parametrize("branch", BRANCHES)
def test_images_that_merely_look_different_must_not_end_in_an_error(branch: str) -> None:
    """Where another size does, the error tells the user."""
    is_mixed, kind = BRANCHES[branch]
    groups = ChannelGroups(FailsThere(is_mixed), IMAGES)
    reason = groups.skipped.get("a", "")
    if kind == BRIGHTNESS:
        assert reason.startswith("without its channels, the network (test_other_inputs.py:")
        assert reason.endswith(f" does not run in {BRIGHTNESS}")
    else:
        assert [group.name for group in groups.groups] == ["a", "b"]


class OrderedByData(nn.Module):
    """Equal layers in an order that images decide; the order is read off as a list, by no operator."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.fc = conv(3, 8), conv(8, 6), nn.Linear(6, CLASSES)
        self.layers = nn.ModuleList(conv(8, 8) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        for number in torch.argsort(x.mean((0, 2, 3))[:2]).tolist():
            y = self.layers[number](y).relu()
        return self.fc(pool_mean(self.last(y).relu()))


def test_layers_in_an_order_that_images_decide_stay() -> None:
    torch.manual_seed(0)
    groups = ChannelGroups(OrderedByData().eval(), IMAGES)
    assert [group.name for group in groups.groups] == ["last"]
    assert all(BRIGHTNESS in groups.skipped[name] for name in ("first", "layers.0", "layers.1"))


def test_tensors_that_change_places_are_noticed_though_no_operator_changes() -> None:
    class Swapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.c, self.b, self.fc = conv(3, 8), conv(3, 8), conv(16, 6), nn.Linear(6, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            first, second = self.a(x), self.c(x)
            parts = [second, first] if float(x.mean()) > 0.4 else [first, second]
            return self.fc(pool_mean(self.b(torch.cat(parts, 1).relu()).relu()))

    torch.manual_seed(0)
    groups = ChannelGroups(Swapped().eval(), IMAGES)
    assert [group.name for group in groups.groups] == ["b"]
    assert groups.skipped["a"] == groups.skipped["c"] == f"{CHANGES} {BRIGHTNESS}"


def test_networks_of_one_path_are_compared_on_smaller_images_alone() -> None:
    others = find_other_inputs(MixedWhere().eval(), Inputs.of(IMAGES))
    assert [(other.images.only_tensor.shape, other.kind) for other in others] == [
        ((1, 3, 4, 4), "images of another size")
    ]


def test_a_network_that_wants_one_size_is_tried_on_other_batches() -> None:
    class OneSize(MixedWhere):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[2:] == (8, 8)
            return super().forward(x)

    others = find_other_inputs(OneSize(BRANCHES["batch"][0]).eval(), Inputs.of(IMAGES))
    assert [(other.images.only_tensor.shape, other.kind) for other in others] == [
        ((8, 3, 8, 8), "a batch of another size")
    ]

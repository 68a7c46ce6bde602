"""Code that calls modules until a width fits: without its channels it goes on for ever, and a trial has to end it."""

from __future__ import annotations

import inspect

import pytest
import torch
from coupled_nets.pieces import CLASSES, SHAPE, conv, pool_mean
from torch import Tensor, nn

from methods.graph.call_limit import with_limited_calls
from methods.graph.channel_sites import ChannelGroups
from models.execution.inputs import Inputs
from models.execution.module_copies import copy_on_write
from models.execution.user_line import EndlessPassError

IMAGES = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))


class UntilWide(nn.Module):
    """A residual layer is applied until there are eight channels: once, unless they are fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 6), conv(6, 8), conv(8, 8)
        self.fc = nn.Linear(8, CLASSES)

    def must_widen(self, _: Tensor) -> bool:
        return True

    def forward(self, x: Tensor) -> Tensor:
        widens = self.must_widen(x)
        x = self.b(self.a(x).relu())
        x = x + self.c(x).relu()
        while widens and x.shape[1] != 8:
            x = x + self.c(x).tanh()
        return self.fc(pool_mean(x))


class UntilWideInTraining(UntilWide):
    def must_widen(self, _: Tensor) -> bool:
        return self.training


class UntilWideOnSmall(UntilWide):
    def must_widen(self, x: Tensor) -> bool:
        return x.shape[-1] < SHAPE[-1]


LINES, START = inspect.getsourcelines(UntilWide.forward)
LINE = START + next(number for number, line in enumerate(LINES) if "tanh" in line)


@pytest.mark.parametrize(
    ("kind", "where"),
    [(UntilWide, ""), (UntilWideInTraining, " in training"), (UntilWideOnSmall, " in images of another size")],
)
def test_code_that_does_not_end_keeps_its_channels(kind: type[UntilWide], where: str) -> None:
    groups = ChannelGroups(kind(), IMAGES)
    assert [group.name for group in groups.groups] == ["a"]
    reason = f"without its channels, the network (test_call_limit.py:{LINE}) does not come to an end"
    assert groups.skipped["b"] == f"{reason}{where}"


class Repeats(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.times = nn.Identity(), 3

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.layer(x)
        return x


def test_each_pass_of_each_copy_has_the_limit() -> None:
    network = Repeats()
    limited = with_limited_calls(network, Inputs.of(IMAGES))
    # The example takes 4 calls, of the layer and of the network, which are 2 modules: 20 times as many are allowed.
    for other in (limited, copy_on_write(limited)):
        other.times = 119
        for _ in range(3):
            other(IMAGES)
        other.times = 120
        with pytest.raises(EndlessPassError):
            other(IMAGES)
    network.times = 1000
    network(IMAGES)


def test_graphs_whose_copies_have_no_hooks_stay_without_limit() -> None:
    limited = with_limited_calls(torch.fx.symbolic_trace(Repeats()), Inputs.of(IMAGES))
    twin = copy_on_write(limited)
    for _ in range(40):  # of 3 calls each, in one copy
        assert torch.equal(twin(IMAGES), IMAGES)

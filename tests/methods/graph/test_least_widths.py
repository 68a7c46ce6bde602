"""The least widths of networks whose code stops running below some width."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from coupled_nets.pieces import CLASSES, SHAPE, Pieces, conv, pool_mean
from independent import randomise_channels
from torch import Tensor, nn

from methods.base import Compressor
from methods.graph import least_widths as module_of_widths
from methods.registry import create


def bind_method(network: nn.Module) -> Compressor:
    return create("l1", randomise_channels(network), torch.randn(2, *SHAPE))


def run_smallest(compressor: Compressor) -> Tensor:
    last = [len(site.settings) - 1 for site in compressor.sites]
    outputs: Tensor = compressor.compress(compressor.allocation(last))(torch.randn(2, *SHAPE))
    return outputs


class Divided(nn.Module):
    """Code that divides by a sixth of a width."""

    def __init__(self) -> None:
        super().__init__()
        self.body = conv(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.body(x))
        return x * (6 // 6 / (x.shape[1] // 6))


def test_a_width_that_the_code_divides_by_is_not_less_than_it_allows() -> None:
    """Of 12 channels 8 stay at least: the first power of two from which the network runs; the others are free."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return n.fc(pool_mean(F.relu(n.after(n.divided(F.relu(n.stem(x)))))))

    network = Pieces(run_net, stem=conv(3, 8), divided=Divided(), after=conv(12, 6), fc=nn.Linear(6, CLASSES))
    compressor = bind_method(network)
    assert {site.name: site.widths[-1] for site in compressor.sites} == {"stem": 1, "divided.body": 8, "after": 1}
    assert run_smallest(compressor).shape == (2, CLASSES)


def test_widths_that_only_fail_together() -> None:
    """Two widths whose sum must be 4 or more, in the code of the network itself."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        left, right = F.relu(n.left(x)), F.relu(n.right(x))
        x = torch.cat([left, right], 1)
        assert x.shape[1] >= 4
        return n.fc(pool_mean(x))

    network = Pieces(run_net, left=conv(3, 8), right=conv(3, 8), fc=nn.Linear(16, CLASSES))
    compressor = bind_method(network)
    assert {site.name: site.widths[-1] for site in compressor.sites} == {"left": 2, "right": 2}
    assert run_smallest(compressor).shape == (2, CLASSES)


class AtLeast(nn.Module):
    """Convolutions in a module whose code refuses fewer channels."""

    def __init__(self, number: int, least: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(conv(16, 16) for _ in range(number))
        self.least = least

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))
            if x.shape[1] < self.least:
                raise ValueError("too few channels")
        return x


@pytest.mark.parametrize(("number", "least", "widest"), [(1, 11, 11), (2, 8, 8), (3, 15, 15)])
def test_a_width_that_the_code_insists_on_is_the_end_of_the_ladder(number: int, least: int, widest: int) -> None:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return n.fc(pool_mean(n.body(F.relu(n.stem(x)))))

    network = Pieces(run_net, stem=conv(3, 16), body=AtLeast(number, least), fc=nn.Linear(16, CLASSES))
    compressor = bind_method(network)
    kept = {site.name: site.widths[-1] for site in compressor.sites}
    assert kept == {"stem": 1} | {f"body.layers.{layer}": widest for layer in range(number)}
    for site in range(len(kept)):
        levels = [len(other.settings) - 1 if number == site else 0 for number, other in enumerate(compressor.sites)]
        small = compressor.compress(compressor.allocation(levels))
        assert small(torch.randn(2, *SHAPE)).shape == (2, CLASSES)
    assert run_smallest(compressor).shape == (2, CLASSES)


class OtherBelow(nn.Module):
    """Code that takes another way for few channels, without an error."""

    def __init__(self, least: int, *, in_training: bool = False) -> None:
        super().__init__()
        self.layer, self.least, self.in_training = conv(16, 16), least, in_training

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.layer(x))
        return x.tanh() if x.shape[1] < self.least and (self.training or not self.in_training) else x


class Standardised(nn.Module):
    """Divides by the deviation of the channels, which a single one has not."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = conv(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return x / x.std(1, keepdim=True)


@pytest.mark.parametrize(
    ("build", "least"),
    [(lambda: OtherBelow(4), 4), (lambda: OtherBelow(7, in_training=True), 8), (Standardised, 2)],
    ids=["evaluation", "training", "deviation"],
)
def test_widths_that_do_other_than_the_masked_network_are_not_offered(
    build: Callable[[], nn.Module], least: int
) -> None:
    """Wider ones are: the least one of the halves that is right."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return n.fc(pool_mean(n.body(F.relu(n.stem(x)))))

    torch.manual_seed(0)
    network = Pieces(run_net, stem=conv(3, 16), body=build(), fc=nn.Linear(16, CLASSES))
    compressor = bind_method(network)
    assert {site.name: site.widths[-1] for site in compressor.sites} == {"stem": 1, "body.layer": least}
    assert run_smallest(compressor).isfinite().all()


class RefusesBelow(OtherBelow):
    """Refuses fewer than 12 channels, and does other than the dense network with fewer than 14."""

    def __init__(self) -> None:
        super().__init__(14)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        assert x.shape[1] >= 12
        return x


def test_between_the_half_and_the_whole_the_least_right_width_is_found() -> None:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return n.fc(pool_mean(n.body(F.relu(n.stem(x)))))

    compressor = bind_method(Pieces(run_net, stem=conv(3, 16), body=RefusesBelow(), fc=nn.Linear(16, CLASSES)))
    assert {site.name: site.widths[-1] for site in compressor.sites} == {"stem": 1, "body.layer": 14}


def test_without_time_what_is_not_settled_stays_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        return n.fc(pool_mean(n.body(F.relu(n.stem(x)))))

    monkeypatch.setattr(module_of_widths, "PATIENCE", 0.0)
    compressor = bind_method(Pieces(run_net, stem=conv(3, 16), body=OtherBelow(4), fc=nn.Linear(16, CLASSES)))
    assert compressor.sites == ()
    late = "how few of its channels are right could not be settled in 120 s"
    assert compressor.skipped == {"stem": late, "body.layer": late, "fc": "it is an output of the network"}

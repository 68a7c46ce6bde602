"""Groups that no output shows stay dense; noise in evaluation hides only the channels that it has itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from coupled_nets.pieces import CLASSES, Pieces, conv, pool_mean
from torch import Tensor, nn

from methods.graph.channel_sites import ChannelGroups
from methods.registry import create

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
UNSEEN = "no output depends on its channels"


def build_network(gate: Callable[[nn.Module, Tensor], Tensor], **pieces: Any) -> nn.Module:
    """The gate takes what the branch through `hidden` makes, beside the way through `direct`."""
    torch.manual_seed(0)
    return Pieces(
        lambda n, x: n.fc(pool_mean(n.direct(x) + gate(n, n.branch(F.relu(n.hidden(x)))))),
        hidden=conv(3, 6), branch=conv(6, 5), direct=conv(3, 5), fc=nn.Linear(5, CLASSES), **pieces,
    ).eval()  # fmt: skip


CLOSED = nn.Parameter(torch.zeros(()))


@pytest.mark.parametrize(
    "gate",
    [lambda n, y: y * 0.0, lambda n, y: y * CLOSED, lambda n, y: torch.zeros_like(y)],
    ids=["number", "closure", "dead"],
)
def test_a_branch_that_changes_nothing_stays(gate: Callable[[nn.Module, Tensor], Tensor]) -> None:
    groups = ChannelGroups(build_network(gate), IMAGES)
    assert {site.name for site in groups.sites} <= {"branch", "direct"}
    assert groups.skipped["hidden"].startswith(UNSEEN)


class UnusedHeads(nn.Module):
    """Each head's result is thrown away."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.fc = conv(3, 6), nn.Linear(6, CLASSES)
        self.heads = nn.ModuleList(nn.Sequential(conv(6, 5), conv(5, 4)) for _ in range(heads))

    def forward(self, x: Tensor) -> Tensor:
        COUNTED.append(len(self.heads))
        x = self.stem(x)
        for head in self.heads:
            head(x)
        scores: Tensor = self.fc(pool_mean(x))
        return scores


COUNTED: list[int] = []  # heads of the network, once for each forward pass


def test_any_number_of_unused_heads_takes_as_many_passes_as_one() -> None:
    for number in (1, 8):
        groups = ChannelGroups(UnusedHeads(number), IMAGES)
        assert {site.name for site in groups.sites} == {"stem"}
        reasons = [groups.skipped[f"heads.{head}.{layer}"] for head in range(number) for layer in (0, 1)]
        assert all(reason.startswith(UNSEEN) for reason in reasons)
    assert COUNTED.count(1) == COUNTED.count(8)


def test_outputs_that_are_always_the_same_show_nothing() -> None:
    network = nn.Sequential(build_network(lambda n, y: y), nn.Linear(CLASSES, 1), nn.Softmax(1))
    groups = ChannelGroups(network, IMAGES)
    assert groups.sites == ()
    assert groups.skipped["0.hidden"].startswith(UNSEEN)


def test_a_gate_in_a_buffer_is_opened_for_the_trial() -> None:
    network = build_network(lambda n, y: n.gate * y)
    network.register_buffer("gate", torch.zeros(1))
    assert {site.name for site in ChannelGroups(network, IMAGES).sites} == {"hidden", "direct"}
    assert not network.get_buffer("gate").any()


def test_a_branch_that_bright_images_open_is_tried_on_them() -> None:
    """What is wrong behind it is seen there: the code counts its channels."""
    sound = build_network(lambda n, y: y * (n.direct.weight.new_zeros(()) if y.abs().amax() < 3 else 1))
    assert "hidden" in {site.name for site in ChannelGroups(sound, IMAGES).sites}

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        y = F.relu(n.hidden(x))
        counted = torch.ones(y.shape).sum(1, keepdim=True) * (x.abs().amax() > 20)
        return n.fc(pool_mean(n.direct(x) + n.branch(y) * counted))

    torch.manual_seed(0)
    wrong = Pieces(run_net, hidden=conv(3, 6), branch=conv(6, 5), direct=conv(3, 5), fc=nn.Linear(5, CLASSES)).eval()
    assert "more than those channels" in ChannelGroups(wrong, IMAGES).skipped["hidden"]


def test_channels_that_do_very_little_are_tried_by_how_little_they_do() -> None:
    """A billionth of them reaches the outputs; the code that counts them is wrong all the same."""

    def counted(n: nn.Module, y: Tensor) -> Tensor:
        return y * 1e-9 * torch.ones(n.hidden.bias.shape).sum()

    assert {"hidden", "direct"} == {
        site.name for site in ChannelGroups(build_network(lambda n, y: 1e-9 * y), IMAGES).sites
    }
    assert "more than those channels" in ChannelGroups(build_network(counted), IMAGES).skipped["hidden"]


class Noisy(nn.Module):
    """Noise in evaluation too: of one channel (StyleGAN), or for each channel of one layer by itself."""

    def __init__(self, noisy: str) -> None:
        super().__init__()
        self.noisy = noisy
        self.stem, self.hidden, self.wide = conv(3, 7), conv(7, 6), conv(6, 5)
        self.fc = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for name in ("stem", "hidden", "wide"):
            x = F.relu(self.get_submodule(name)(x))
            width = x.shape[1] if name == self.noisy else 1
            x = x + torch.randn(len(x), width, *x.shape[2:], dtype=x.dtype)
        return torch.as_tensor(self.fc(pool_mean(x)))


@pytest.mark.parametrize(
    ("noisy", "free"), [("", "stem hidden wide"), ("hidden", "stem wide"), ("wide", "stem hidden")]
)
def test_noise_of_the_same_shape_is_drawn_alike(noisy: str, free: str) -> None:
    torch.manual_seed(0)
    network = Noisy(noisy)
    compressor = create("l1", network, IMAGES)
    assert {site.name for site in compressor.sites} == set(free.split())
    if noisy:
        assert "outputs are random" in compressor.skipped[noisy]
    small = compressor.compress(compressor.allocation([1] * len(compressor.sites)))
    assert small(IMAGES).shape == (2, CLASSES)

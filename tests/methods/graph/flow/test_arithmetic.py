"""Operators that compute, against what changes when one channel does, or against couplings known by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from channel_oracle import Channel, changed_units, traced_units, units_among
from coupled_nets.pieces import CLASSES, Pieces, conv, pool_mean
from torch import Tensor, nn
from torchvision.ops import roi_align

from methods.graph.channel_sites import ChannelGroups

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
sample = partial(F.grid_sample, align_corners=False)
TURN = F.affine_grid(torch.tensor([[[0.6, -0.4, 0.1], [0.4, 0.6, 0.0]]] * 2), [2, 6, 8, 8], align_corners=False)
REGIONS = [torch.tensor([[0.0, 1.0, 6.0, 7.0]]), torch.tensor([[2.0, 0.0, 7.0, 5.0]])]
SIDES = {("a", "out"), ("b", "out"), ("z", "in")}
Between = Callable[[nn.Module, Tensor, Tensor], Tensor]


def two_producers(between: Between) -> nn.Module:
    """`between` makes the input of the convolution `z` from the outputs of `a` and `b`, each (N, 6, 8, 8)."""
    torch.manual_seed(0)
    return Pieces(
        lambda n, x: n.fc(pool_mean(n.z(between(n, n.a(x), n.b(x))))),
        a=conv(3, 6), b=conv(3, 6), z=conv(6, 5), fc=nn.Linear(5, CLASSES),
        norm=nn.BatchNorm2d(6), scale=nn.Parameter(torch.rand(6, 1, 1)),
    ).eval()  # fmt: skip


ELEMENTWISE: dict[str, Between] = {
    "sum": lambda n, a, b: F.relu(a) + F.hardswish(b),
    "gate": lambda n, a, b: F.silu(a) * torch.sigmoid(b),
    "activations": lambda n, a, b: F.gelu(F.elu(F.leaky_relu(F.hardtanh(F.mish(a))))),
    "where": lambda n, a, b: torch.where(a > 0, a, b),
    "comparison": lambda n, a, b: a * (b > 0),
    "maximum": lambda n, a, b: torch.maximum(a, b).clamp(-1, 1),
    "addcmul": lambda n, a, b: torch.addcmul(a, b, n.scale),
    "lerp": lambda n, a, b: torch.lerp(a, b, 0.3),
    "in place": lambda n, a, b: a.mul_(n.scale).add_(b).relu_(),
    "noise of its shape": lambda n, a, b: a * (1 + torch.zeros_like(a).fill_(0.5)) + torch.ones(6, 8, 8),
    "batch norm": lambda n, a, b: n.norm(a) + b,
    "pooling": lambda n, a, b: F.max_pool2d(a, 2) + F.avg_pool2d(b, 2),
    "adaptive pooling": lambda n, a, b: F.adaptive_avg_pool2d(a, 3) + F.adaptive_max_pool2d(b, 3),
    "unpooling": lambda n, a, b: F.max_unpool2d(*F.max_pool2d(a, 2, return_indices=True), 2) + b,
    "resampling": lambda n, a, b: F.interpolate(a, scale_factor=2) + F.interpolate(b, size=(16, 16), mode="bilinear"),
    "sampling at places": lambda n, a, b: sample(a, TURN[: len(a)]) * sample(b, TURN[: len(b)].tanh()),
    "sampling where the image says": lambda n, a, b: sample(a, IMAGES[: len(a), :2].movedim(1, -1)) + b,
    "regions": lambda n, a, b: roi_align(a, REGIONS[: len(a)], 4) + F.adaptive_avg_pool2d(b, 4),
    "softmax of positions": lambda n, a, b: a.flatten(2).softmax(2).unflatten(2, (8, 8)) + b,
    "sums over positions": lambda n, a, b: (a.mean((2, 3)) + b.var((2, 3)))[..., None, None],
    "running sums of positions": lambda n, a, b: a.cumsum(3) + b.sort(2)[0],
    "running maxima of positions": lambda n, a, b: a.cummax(3)[0] + b.cummin(2)[0],
    "a kernel of one position": lambda n, a, b: (
        F.conv2d(torch.stack([a.flatten(2), b.flatten(2)], 1), torch.ones(1, 2, 1, 1)).squeeze(1).unflatten(2, (8, 8))
    ),
    "one image for all": lambda n, a, b: a - a.mean(0, keepdim=True) + b.amax((2, 3), keepdim=True),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_channels_that_meet_belong_together(name: str) -> None:
    network = two_producers(ELEMENTWISE[name])
    expected = changed_units(network, IMAGES, ["a", "b"], "z")
    assert units_among(traced_units(network, IMAGES), SIDES) == expected


# Every channel depends on all others here: between -> what the reason says.
MIXED: dict[str, tuple[Between, str]] = {
    "middle": (lambda n, a, b: a * a.median(1, keepdim=True)[0], "median over channels"),
    "place of the largest": (lambda n, a, b: a * a.argmax(1, keepdim=True), "argmax over channels"),
    "running sum": (lambda n, a, b: a.cumsum(1), "cumsum over channels"),
    "sorted": (lambda n, a, b: a.sort(1)[0], "sort over channels"),
    "convolution across": (lambda n, a, b: F.avg_pool3d(a, (3, 1, 1), 1, (1, 0, 0)), "avg_pool3d"),
    "an image of six channels": (lambda n, a, b: a + torch.cat([IMAGES[:1]] * 2, 1), "add"),
    "Fourier transform": (lambda n, a, b: torch.fft.fft(a, dim=1).real, "fft"),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXED)
def test_channels_of_which_none_can_go_stay_with_a_reason(name: str) -> None:
    between, words = MIXED[name]
    network = two_producers(between)
    assert not units_among(traced_units(network, IMAGES), {("a", "out")})
    groups = ChannelGroups(network, IMAGES)
    assert words in groups.skipped["a"]
    assert "test_arithmetic.py:" in groups.skipped["a"]
    assert {site.name for site in groups.sites} >= {"z"}, "other layers have no part in it"


def units(width: int, *channels: Callable[[int], list[Channel]]) -> set[frozenset[Channel]]:
    return {frozenset(channel for several in channels for channel in several(c)) for c in range(width)}


def at(name: str, side: str, index: Callable[[int], list[int]] = lambda c: [c]) -> Callable[[int], list[Channel]]:
    return lambda c: [(name, side, i) for i in index(c)]


def in_a_row(middle: nn.Module, width: int, reader: nn.Module | None = None) -> nn.Module:
    """a -> middle -> z, with `width` channels after `middle`."""
    return Pieces(
        lambda n, x: n.fc(pool_mean(n.z(n.middle(n.a(x))))),
        a=conv(3, 6), middle=middle, z=reader or conv(width, 4), fc=nn.Linear(4, CLASSES),
    )  # fmt: skip


def pair(c: int) -> list[int]:
    return [2 * c, 2 * c + 1]


A, Z = at("a", "out"), at("z", "in")
ROWS: dict[str, tuple[nn.Module, int, set[frozenset[Channel]]]] = {
    "convolution": (conv(6, 8), 8, units(6, A, at("middle", "in")) | units(8, at("middle", "out"), Z)),
    "transposed": (
        nn.ConvTranspose2d(6, 8, 2, 2), 8, units(6, A, at("middle", "in")) | units(8, at("middle", "out"), Z)
    ),
    "grouped": (conv(6, 9, groups=3), 9, units(6, A, at("middle", "in")) | units(9, at("middle", "out"), Z)),
    "depthwise": (conv(6, 6, groups=6, bias=False), 6, units(6, A, at("middle", "out"), Z)),
    "depthwise transposed": (nn.ConvTranspose2d(6, 6, 2, 2, groups=6), 6, units(6, A, at("middle", "out"), Z)),
    "depthwise with multiplier": (
        conv(6, 12, groups=6), 12,
        units(6, A, at("middle", "out", pair), at("z", "in", pair)),
    ),
    "layer norm": (nn.Sequential(nn.LayerNorm((8, 8), elementwise_affine=False), nn.ReLU()), 6, units(6, A, Z)),
    "group norm": (nn.GroupNorm(2, 6), 6, units(6, A, at("middle", "out"), Z)),
    "instance norm": (nn.InstanceNorm2d(6), 6, units(6, A, at("middle", "out"), Z)),
    "batch norm without weights": (nn.BatchNorm2d(6, affine=False), 6, units(6, A, at("middle", "out"), Z)),
    "a slope for each": (nn.PReLU(6), 6, units(6, A, at("middle", "out"), Z)),
    "one slope": (nn.PReLU(), 6, units(6, A, Z)),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_layers_in_a_row(name: str) -> None:
    middle, width, expected = ROWS[name]
    network = in_a_row(middle, width)
    traced = units_among(
        traced_units(network, IMAGES), {("a", "out"), ("middle", "in"), ("middle", "out"), ("z", "in")}
    )
    assert traced == expected


@pytest.mark.parametrize("rank", [1, 3])
def test_convolutions_of_other_ranks(rank: int) -> None:
    kind = {1: nn.Conv1d, 3: nn.Conv3d}[rank]
    network = nn.Sequential(kind(2, 4, 3), nn.ReLU(), kind(4, 6, 3), nn.Flatten(), nn.LazyLinear(3))
    example = torch.randn(1, 2, *[6] * rank)
    network(example)
    places = 2**rank
    expected = units(4, at("0", "out"), at("2", "in"))
    expected |= units(6, at("2", "out"), at("4", "in", lambda c: list(range(places * c, places * c + places))))
    assert traced_units(network, example) == expected


def attention(n: nn.Module, x: Tensor, fused: bool) -> Tensor:
    """Two heads of three channels."""
    q, k, v = (layer(x).flatten(2).unflatten(1, (2, 3)).transpose(2, 3) for layer in (n.q, n.k, n.v))
    if fused:  # which asks for channels that lie side by side
        y = F.scaled_dot_product_attention(q.contiguous(), k.contiguous(), v.contiguous())
    else:
        y = (q @ k.mT / 3**0.5).softmax(-1) @ v
    return n.fc(n.z(y.transpose(1, 2).flatten(2)).mean(1))


@pytest.mark.parametrize("fused", [False, True])
def test_queries_and_keys_lose_the_same_channels_of_every_head_and_values_others(fused: bool) -> None:
    network = Pieces(
        lambda n, x: attention(n, x, fused),
        q=conv(3, 6), k=conv(3, 6), v=conv(3, 6), z=nn.Linear(6, 4), fc=nn.Linear(4, CLASSES),
    )  # fmt: skip
    heads = {name: at(name, "out", lambda c: [c, c + 3]) for name in "qkv"}
    expected = units(3, heads["q"], heads["k"]) | units(3, heads["v"], at("z", "in", lambda c: [c, c + 3]))
    expected |= units(4, at("z", "out"), at("fc", "in"))
    assert traced_units(network, IMAGES) == expected


def test_linear_layers_over_tokens_and_over_channels() -> None:
    """An MLP mixer: positions are data, so the first layer over tokens keeps its inputs; its hidden units may go."""
    network = Pieces(
        lambda n, x: n.fc((n.a(x).flatten(2) + n.back(F.gelu(n.mix(n.a(x).flatten(2))))).mean(2)),
        a=conv(3, 6), mix=nn.Linear(64, 10), back=nn.Linear(10, 64), fc=nn.Linear(6, CLASSES),
    )  # fmt: skip
    expected = units(6, A, at("fc", "in")) | units(10, at("mix", "out"), at("back", "in"))
    assert traced_units(network, IMAGES) == expected


def test_bare_tensors_go_with_their_channels() -> None:
    """A scale, a table of positions and an embedding are cut along their channels."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        tokens = n.a(x).flatten(2).transpose(1, 2) + n.table + n.kinds(torch.zeros(1, dtype=torch.long))
        return n.fc((tokens * n.scale).mean(1))

    network = Pieces(
        run_net, a=conv(3, 6), table=nn.Parameter(torch.randn(1, 64, 6)), kinds=nn.Embedding(2, 6),
        scale=nn.Parameter(torch.ones(6)), fc=nn.Linear(6, CLASSES),
    )  # fmt: skip
    groups = ChannelGroups(network, IMAGES).groups
    assert [group.name for group in groups] == ["a"]
    bare = {slots.name: (slots.dim, slots.index.tolist()) for slots in groups[0].slots if slots.dim is not None}
    assert bare == {name: (dim, list(range(6))) for name, dim in (("table", 2), ("kinds.weight", 1), ("scale", 0))}


def test_bare_weights_and_biases_are_cut_together() -> None:
    network = Pieces(
        lambda n, x: n.fc(pool_mean(F.conv2d(x, n.kernel, n.bias))),
        kernel=nn.Parameter(torch.randn(6, 3, 3, 3)), bias=nn.Parameter(torch.randn(6)), fc=nn.Linear(6, CLASSES),
    )  # fmt: skip
    (group,) = ChannelGroups(network, IMAGES).groups
    assert {(slots.name, slots.dim) for slots in group.slots} == {("kernel", 0), ("bias", 0), ("fc", None)}
    assert all(slots.index.tolist() == list(range(6)) for slots in group.slots)


def test_places_that_a_convolution_looks_at_side_by_side_stay() -> None:
    """A linear layer makes ten columns of eight; the convolution after it mixes neighbouring ones."""
    network = Pieces(
        lambda n, x: n.fc(pool_mean(n.z(n.columns(x)))),
        columns=nn.Linear(8, 10), z=conv(3, 5), fc=nn.Linear(5, CLASSES),
    )  # fmt: skip
    assert traced_units(network, IMAGES) == units(5, at("z", "out"), at("fc", "in"))

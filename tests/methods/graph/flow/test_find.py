"""Groups from labels: where they stand, how they are called, in which order, and which parts of a view shrink."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from channel_oracle import Channel, traced_units, units_among
from coupled_nets.pieces import CLASSES, Pieces, conv, pool_mean
from torch import Tensor, nn

from methods.graph.flow.find import TracedGroups, trace_groups
from methods.graph.flow.labels import Dimension
from methods.graph.flow.places import Place, place_of
from methods.graph.trace import trace_layers
from models.execution.inputs import Inputs

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def traced(network: nn.Module) -> TracedGroups:
    return trace_groups(network, Inputs.of(IMAGES), trace_layers(network, IMAGES))


MODULES = {
    "conv": nn.Conv2d(4, 6, 3), "up": nn.ConvTranspose2d(4, 6, 2), "grouped": nn.Conv2d(4, 6, 3, groups=2),
    "depthwise": nn.Conv2d(4, 4, 3, groups=4), "fc": nn.Linear(4, 6), "norm": nn.BatchNorm2d(4), "ln": nn.LayerNorm(4),
    "maps": nn.LayerNorm((4, 8, 8)), "rms": nn.RMSNorm(4), "means": nn.LayerNorm((4, 1, 1)),
    "gn": nn.GroupNorm(2, 4), "slope": nn.PReLU(4), "one": nn.PReLU(),
    "table": nn.Embedding(3, 4),
}  # fmt: skip
PLACES: dict[tuple[str, int | str], tuple[str, str, int | None] | None] = {
    ("conv.weight", 0): ("conv", "out", None),
    ("conv.weight", 1): ("conv", "in", None),
    ("conv.weight", 2): None,
    ("conv.bias", 0): None,
    ("up.weight", 0): ("up", "in", None),
    ("up.weight", 1): ("up", "out", None),
    ("grouped.weight", 0): ("grouped", "out", None),
    ("grouped.weight", 1): None,
    ("grouped", "in"): ("grouped", "in", None),
    ("depthwise.weight", 0): ("depthwise", "out", None),
    ("depthwise", "in"): None,
    ("fc.weight", 0): ("fc", "out", None),
    ("fc.weight", 1): ("fc", "in", None),
    ("norm.running_mean", 0): ("norm", "out", None),
    ("ln.weight", 0): ("ln", "out", None),
    ("maps.weight", 0): ("maps.weight", "out", 0),
    ("means.weight", 0): ("means", "out", None),
    ("rms.weight", 0): ("rms", "out", None),
    ("gn.bias", 0): ("gn", "out", None),
    ("slope.weight", 0): ("slope", "out", None),
    ("table.weight", 1): ("table.weight", "out", 1),
    ("scale", 2): ("scale", "out", 2),
}


@pytest.mark.parametrize("dimension", PLACES, ids=str)
def test_a_dimension_stands_on_a_side_of_its_module_or_for_itself(dimension: tuple[str, int | str]) -> None:
    place = PLACES[dimension]
    found = place_of(Dimension(*dimension, 1, 4), dict(MODULES), {})
    assert found == (None if place is None else Place(*place))  # type: ignore[arg-type]


def test_groups_come_in_the_order_of_execution_not_of_definition() -> None:
    network = Pieces(
        lambda n, x: n.head(pool_mean(n.last(n.middle(n.first(x))))),
        head=nn.Linear(5, CLASSES), last=conv(8, 5), middle=conv(6, 8), first=conv(3, 6),
    )  # fmt: skip
    assert [group.name for group in traced(network).groups] == ["first", "middle", "last"]
    assert [group.channels for group in traced(network).groups] == [6, 8, 5]


def test_parts_of_a_layer_that_go_their_own_ways_are_named_by_their_channels() -> None:
    network = Pieces(
        lambda n, x: n.fc(pool_mean(n.left(n.a(x)[:, :5]) + n.right(n.a(x)[:, 5:]))),
        a=conv(3, 12), left=conv(5, 6), right=conv(7, 6), fc=nn.Linear(6, CLASSES),
    )  # fmt: skip
    groups = {group.name: group for group in traced(network).groups}
    assert list(groups) == ["a", "a[5:12]", "left"]
    assert [slots.index.tolist() for slots in groups["a[5:12]"].slots] == [list(range(5, 12)), list(range(7))]
    assert groups["left"].layers == ("left", "right", "fc")


def test_channels_that_only_go_all_together_stay() -> None:
    """Every channel is added to its neighbour, the last one to the first."""
    network = Pieces(
        lambda n, x: n.fc(pool_mean(n.z((y := n.a(x)) + y.roll(1, 1)))),
        a=conv(3, 6), z=conv(6, 5), fc=nn.Linear(5, CLASSES),
    )  # fmt: skip
    assert [group.name for group in traced(network).groups] == ["z"]
    assert traced(network).reasons["a"] == "its channels can only be removed all together"


def test_every_layer_of_channels_that_go_all_together_is_told_why() -> None:
    network = Pieces(
        lambda n, x: n.fc(pool_mean(n.z((y := n.a(x) + n.b(x)) + y.roll(1, 1)))),
        a=conv(3, 6), b=conv(3, 6), z=conv(6, 5), fc=nn.Linear(5, CLASSES),
    )  # fmt: skip
    found = traced(network)
    owned = {slots.name for group in found.groups for slots in group.slots if slots.side == "out"}
    assert {"a", "b", "fc"} == found.reasons.keys() == found.uses.keys() - owned
    assert found.reasons["b"] == found.reasons["a"]


def test_an_outer_product_holds_both_of_its_factors() -> None:
    """Every filter of `a` meets every filter of `b`."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        outer = pool_mean(n.a(x))[:, :, None] * pool_mean(n.b(x))[:, None]
        return n.fc(outer.sum(2) + outer.median(1)[0])

    network = Pieces(run_net, a=conv(3, 6), b=conv(3, 6), fc=nn.Linear(6, CLASSES))
    assert traced(network).groups == []
    assert set(traced(network).reasons) == {"a", "b", "fc"}


Between = Callable[[Tensor], Tensor]


def every(step: int, count: int) -> Callable[[int], list[int]]:
    return lambda c: [c + step * i for i in range(count)]


def block(size: int) -> Callable[[int], list[int]]:
    return lambda c: list(range(size * c, size * c + size))


def one(c: int) -> list[int]:
    return [c]


# A view takes 12 channels apart. code -> inputs of z, choices, channels of a and inputs of z that each choice removes
SPLITS: dict[str, tuple[Between, int, int, Callable[[int], list[int]], Callable[[int], list[int]]]] = {
    "shuffle": (lambda x: x.view(2, 3, 4, 8, 8).transpose(1, 2).reshape(2, 12, 8, 8), 12, 4, every(4, 3), block(3)),
    "there and back": (lambda x: x.view(2, 3, 4, 8, 8).relu().view(2, 12, 8, 8), 12, 4, every(4, 3), every(4, 3)),
    "sum of parts": (lambda x: x.view(2, 3, 4, 8, 8).sum(1), 4, 4, every(4, 3), one),
    "best of each": (lambda x: x.view(2, 3, 4, 8, 8).amax(2), 3, 3, block(4), one),
    "to positions": (lambda x: x.view(2, 3, 2, 2, 8, 8).permute(0, 1, 4, 2, 5, 3).flatten(2), 3, 3, block(4), one),
    "gate of parts": (lambda x: (p := x.view(2, 2, 6, 8, 8))[:, 0] * torch.sigmoid(p[:, 1]), 6, 6, every(6, 2), one),
    "softmax of parts": (lambda x: (x.view(2, 3, 4, 8, 8).softmax(1)).sum(1), 4, 4, every(4, 3), one),
    "softmax within parts": (lambda x: x.view(2, 3, 4, 8, 8).softmax(2).flatten(1, 2), 12, 4, every(4, 3), every(4, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", SPLITS)
def test_of_a_dimension_taken_apart_the_part_shrinks_that_uses_leave_free(name: str) -> None:
    between, inputs, choices, produced, read = SPLITS[name]
    network = Pieces(
        lambda n, x: n.fc(pool_mean(n.z(between(n.a(x.expand(2, -1, -1, -1))).reshape(2, inputs, -1, 8)))),
        a=conv(3, 12), z=conv(inputs, 5), fc=nn.Linear(5, CLASSES),
    )  # fmt: skip
    expected: set[frozenset[Channel]] = {
        frozenset([("a", "out", i) for i in produced(c)] + [("z", "in", i) for i in read(c)]) for c in range(choices)
    }
    assert units_among(traced_units(network, IMAGES), {("a", "out"), ("z", "in")}) == expected


def test_a_layer_of_one_filter_and_one_without_use_have_reasons() -> None:
    network = Pieces(
        lambda n, x: n.fc(pool_mean(n.a(x) * torch.sigmoid(n.mask(x)))),
        a=conv(3, 6), mask=conv(3, 1), idle=conv(3, 4), fc=nn.Linear(6, CLASSES),
    )  # fmt: skip
    assert traced(network).reasons == {
        "mask": "it has one output channel",
        "idle": "no forward pass on noise reached it",
        "fc": "it is an output of the network",
    }
    assert [group.name for group in traced(network).groups] == ["a"]


def test_layers_of_which_nothing_is_known_say_why() -> None:
    network = Pieces(
        lambda n, x: n.fc(pool_mean(n.normed(n.mask(n.a(x))))),
        a=conv(3, 6), mask=nn.ConvTranspose2d(6, 1, 2), fc=nn.Linear(5, CLASSES),
        normed=nn.utils.parametrizations.weight_norm(conv(1, 5)),
    )  # fmt: skip
    reasons = traced(network).reasons
    assert reasons["mask"] == "it has one output channel"
    assert reasons["normed"] == "its weight is computed from other tensors, and no plain layer does the same"


def test_some_channels_that_only_go_together_are_counted() -> None:
    """The last two channels are added to each other, and the others go by themselves."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        y = n.a(x)
        return n.fc(pool_mean(n.z(y[:, :5]) + n.w(y[:, 5:] + y[:, 5:].flip(1))))

    network = Pieces(run_net, a=conv(3, 7), z=conv(5, 5), w=conv(2, 5), fc=nn.Linear(5, CLASSES))
    assert traced(network).reasons["a"] == "2 of its 7 channels can only be removed all together"

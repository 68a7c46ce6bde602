"""Where a network can be cut: behind which layers what follows needs nothing from before."""

from __future__ import annotations

import pytest
import torch
from coupled_nets import branches, chains
from coupled_nets.pieces import CLASSES, SHAPE, Pieces, conv, pool_mean
from torch import Tensor, nn
from torch.nn import functional as F

from methods.base import copy_network, example_input
from models.networks.catalog import build_network
from search.judge.cuts import Outline


def cuts_of(outline: Outline) -> list[str]:
    found = (outline.last_cut(place + 1) for place in range(len(outline.order)))
    return list(dict.fromkeys(cut.name for cut in found if cut is not None))


def outline_of(network: nn.Module, shape: tuple[int, ...] = SHAPE) -> Outline:
    return Outline(network.eval(), example_input(shape))


def test_cuts_of_a_chain_are_all_its_modules() -> None:
    assert cuts_of(outline_of(chains.plain())) == ["c1", "bn1", "c2", "bn2", "fc"]


def test_a_residual_block_is_cut_before_and_behind_but_not_within() -> None:
    """The stem's output is added again behind bn2, so nothing but the addition and what follows may stand alone."""
    assert cuts_of(outline_of(branches.residual())) == ["stem", "fc"]
    blocks = cuts_of(outline_of(build_network("resnet20", classes=10), (3, 32, 32)))
    assert [name for name in blocks if name.startswith("layer")] == [
        *(f"layer{stage}{block}" for stage in (1, 2, 3) for block in (".0", ".1", "")),
    ]


def test_densely_connected_layers_are_cut_between_blocks_alone() -> None:
    found = cuts_of(outline_of(build_network("densenet40", classes=10), (3, 32, 32)))
    assert not [name for name in found if ".layer" in name or "denselayer" in name]
    assert len(found) >= 3


def test_a_network_that_looks_back_to_its_start_has_no_cut_but_its_end() -> None:
    def run(n: nn.Module, x: Tensor) -> Tensor:
        start = n.c1(x)
        return n.fc(pool_mean(F.relu(start + n.c3(F.relu(n.c2(F.relu(start)))))))

    network = Pieces(run, c1=conv(3, 8), c2=conv(8, 8), c3=conv(8, 8), fc=nn.Linear(8, CLASSES))
    assert cuts_of(outline_of(network)) == ["c1", "fc"]


@pytest.mark.parametrize("change", ["uncalled", "attribute", "inner", "weight", "buffer", "class"])
def test_digests_tell_networks_apart(change: str) -> None:
    network = Pieces(lambda n, x: n.fc(pool_mean(n.act(n.c1(x)) + n.spare.weight.sum())),
                     c1=conv(3, 8), act=nn.LeakyReLU(0.1), spare=nn.Linear(2, 2), fc=nn.Linear(8, 10))  # fmt: skip
    network.register_buffer("shift", torch.zeros(1))
    outline = outline_of(copy_network(network))
    if change == "inner":  # something that a method has put there
        network.c1 = nn.Sequential(network.c1, nn.Conv2d(8, 8, 1))
    other = copy_network(network)
    first, last = outline.module_digests(network), outline.module_digests(other)
    assert first is not None
    assert last is not None
    assert first == last
    if change == "uncalled":
        other.spare.weight.data[0, 0] += 1
    elif change == "attribute":
        other.act.negative_slope = 0.2
    elif change == "inner":
        other.c1[1].weight.data[0, 0, 0, 0] += 1
    elif change == "weight":
        other.c1.weight.data[0, 0, 0, 0] += 1
    elif change == "buffer":
        other.shift += 1
    else:
        other.act = nn.Hardswish()
    changed = outline.module_digests(other)
    assert changed is not None
    place = {"attribute": outline.order.index("act"), "class": outline.order.index("act"),
             "weight": outline.order.index("c1"), "inner": outline.order.index("c1")}.get(change, 0)  # fmt: skip
    assert changed[:place] == first[:place]
    assert all(one != two for one, two in zip(changed[place:], first[place:], strict=True))


def test_a_module_that_is_called_again_is_not_replaced() -> None:
    """`act` returns before the cut c1 does, and is needed after it."""
    network = Pieces(lambda n, x: n.fc(pool_mean(n.act(n.c2(n.c1(n.act(x)))))),
                     act=nn.ReLU(), c1=conv(3, 8), c2=conv(8, 8), fc=nn.Linear(8, CLASSES))  # fmt: skip
    outline = outline_of(network)
    assert cuts_of(outline) == ["c1", "c2", "fc"]
    assert all("act" not in cut.before for cut in outline.candidates)

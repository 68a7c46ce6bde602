"""The trial sees faults planted in groups, also behind factors at zero; and it refuses no sound group."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from coupled_nets import branches, chains, fixed_widths, grouping
from coupled_nets.pieces import CLASSES, Pieces, conv
from torch import Tensor, nn

from methods.graph.channels import Group, Slots, set_partitions
from methods.graph.flow.find import TracedGroups, trace_groups
from methods.graph.trace import trace_layers
from methods.graph.trial import trial_channels
from methods.graph.verify import sound_groups
from models.execution.inputs import Inputs

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def residual_at_zero() -> nn.Module:
    """As fresh ResNets: the last scales of the residual branches are zero, so that the branches do nothing."""
    network = branches.residual()
    nn.init.zeros_(network.bn2.weight)
    return network


def scaled_at_1e_6() -> nn.Module:
    """As fresh ConvNeXts: layer scales make the branches' outputs invisible."""
    network = branches.convnext()
    nn.init.constant_(network.scale, 1e-6)
    return network


def last_convolution_at_zero() -> nn.Module:
    """Branches whose last weight is zero (Fixup, diffusion models)."""
    network = branches.residual()
    nn.init.zeros_(network.c2.weight)
    return network


# Fresh, all channels of a norm, of a slope and of the layer scale have the same factors and statistics.
BUILDERS = (
    residual_at_zero, scaled_at_1e_6, last_convolution_at_zero, chains.norm_without_weights, chains.prelu,
    branches.convnext, chains.plain, chains.flatten, chains.transposed, branches.concat, branches.squeeze_excite,
    branches.halves, branches.option_a, grouping.depthwise, fixed_widths.mean_over_channels,
)  # fmt: skip


def traced_groups(network: nn.Module) -> TracedGroups:
    traced = trace_groups(network, Inputs.of(IMAGES), trace_layers(network, IMAGES))
    set_partitions(traced.groups, network)
    return traced


def with_one_slot_wrong(group: Group) -> Iterator[tuple[str, Group]]:
    """The group with the channels of one slot after the other shifted, which its other slots do not follow."""
    for number, wrong in enumerate(group.slots):
        shifted = Slots(wrong.name, wrong.side, wrong.index, (wrong.channel + 1) % group.channels, wrong.dim)
        slots = [shifted if slots is wrong else slots for slots in group.slots]
        if len(group.slots) > 1:
            yield f"{wrong.name} {wrong.side} {wrong.dim} {number}", replace(group, slots=slots)


@pytest.mark.parametrize("build", BUILDERS)
def test_channels_in_the_wrong_order_are_seen_in_every_slot(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = build().eval()
    traced = traced_groups(network)
    assert traced.groups
    for group in traced.groups:
        assert sound_groups(network, Inputs.of(IMAGES), [group], traced) == ([group], {})
        slipped = [
            what
            for what, wrong in with_one_slot_wrong(group)
            if sound_groups(network, Inputs.of(IMAGES), [wrong], traced)[0]
        ]
        assert slipped == []


class ResponseNorm(nn.Module):
    """GRN of ConvNeXt-V2 with a median: responses relative to the one in the middle, fresh at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma, self.beta = (nn.Parameter(torch.zeros(1, 1, 1, width)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        response = x.norm(dim=(1, 2), keepdim=True)
        return self.gamma * (x * (response / (response.median(-1, keepdim=True)[0] + 1e-6))) + self.beta + x


def test_a_norm_that_needs_all_channels_is_seen_though_it_is_zero() -> None:
    torch.manual_seed(0)
    network = Pieces(
        lambda n, x: n.fc(n.narrow(n.grn(F.gelu(n.wide(n.stem(x).permute(0, 2, 3, 1))))).mean((1, 2))),
        stem=conv(3, 6), wide=nn.Linear(6, 12), grn=ResponseNorm(12), narrow=nn.Linear(12, 6),
        fc=nn.Linear(6, CLASSES),
    ).eval()  # fmt: skip
    traced = traced_groups(network)
    assert "median over channels in grn" in traced.reasons["wide"]
    every = torch.arange(12)
    places = [("wide", "out", None), ("grn.gamma", "out", 3), ("grn.beta", "out", 3), ("narrow", "in", None)]
    slots = [Slots(name, side, every, every, dim) for name, side, dim in places]
    wrong = Group("wide", 12, slots, torch.zeros(12, dtype=torch.long))
    sound, reasons = sound_groups(network, Inputs.of(IMAGES), [*traced.groups, wrong], traced)
    assert {group.name for group in sound} == {"stem", "narrow"}
    assert reasons == {"wide": "removing its channels changes more than those channels"}


@pytest.mark.parametrize("lost", ["norm", "scale", "wide", "dw", "narrow"])
def test_a_reader_that_was_missed_is_seen(lost: str) -> None:
    """One slot of the residual stream of a fresh ConvNeXt block is not known to the group."""
    torch.manual_seed(0)
    network = scaled_at_1e_6().eval()
    traced = traced_groups(network)
    stream = next(group for group in traced.groups if group.name == "stem")
    wrong = replace(stream, slots=[slots for slots in stream.slots if slots.name != lost])
    sound, reasons = sound_groups(network, Inputs.of(IMAGES), [wrong], traced)
    assert sound == []
    assert set(reasons) == {"stem"}


@pytest.mark.parametrize(("size", "classes"), [(2, 1), (3, 1), (4, 1), (5, 1), (7, 1), (4, 3), (16, 2), (33, 1)])
def test_every_draw_keeps_some_of_every_class_and_each_channel_goes_in_one(size: int, classes: int) -> None:
    partition = torch.arange(size * classes) % classes
    group = Group("conv", size * classes, [], partition)
    for number in range(20):
        draws = [trial_channels(group, number, draw) for draw in range(3)]
        for draw in draws:
            left = torch.bincount(partition[draw], minlength=classes)
            assert len(set(left.tolist())) == 1
            assert 0 < int(left[0]) < size
            assert draw.tolist() == sorted(set(draw.tolist()))
        assert set.intersection(*(set(draw.tolist()) for draw in draws)) == set()


def test_groups_of_as_many_channels_lose_different_numbers_in_one_of_the_draws() -> None:
    group = Group("conv", 16, [], torch.zeros(16, dtype=torch.long))
    lost = [tuple(len(trial_channels(group, number, draw)) for draw in range(3)) for number in range(100)]
    assert len(set(lost)) == 100
    assert {16 - width for widths in lost for width in widths} == {6, 7, 8, 9, 10}

"""Passes that the flow takes, what it leaves as it was, and branches, outputs and layers that are special to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from channel_oracle import traced_units, units_among
from coupled_nets.pieces import CLASSES, Pieces, conv, pool_mean
from torch import Tensor, nn

from methods.graph.channel_sites import ChannelGroups
from methods.graph.flow.find import trace_groups
from methods.graph.flow.passes import trace_channels
from methods.graph.trace import trace_layers
from models.execution.inputs import Inputs

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def build_chain(between: Callable[[nn.Module, Tensor], Tensor], **modules: nn.Module) -> nn.Module:
    """a -> between -> z -> fc, six channels after `a`."""
    pieces = {"a": conv(3, 6), "z": conv(6, 5), "fc": nn.Linear(5, CLASSES)} | modules
    return Pieces(lambda n, x: n.fc(pool_mean(n.z(between(n, n.a(x))))), **pieces).eval()


def reasons_of(network: nn.Module) -> dict[str, str]:
    return dict(trace_groups(network, Inputs.of(IMAGES), trace_layers(network, IMAGES)).reasons)


A_AND_Z = {frozenset({("a", "out", c), ("z", "in", c)}) for c in range(6)}
SIDES = {("a", "out"), ("z", "in")}


@pytest.mark.parametrize(
    "branch",
    [
        lambda n, x: x if x.mean() > 0 else -x,
        lambda n, x: x * 2 if bool((x > 1).any()) else x + 1,
        lambda n, x: x[:, :, : 4 + int(x.amax() > 100)],
    ],
)
def test_a_number_that_decides_a_branch_holds_no_channels(branch: Callable[[nn.Module, Tensor], Tensor]) -> None:
    assert units_among(traced_units(build_chain(branch), IMAGES), SIDES) == A_AND_Z


def test_a_number_that_is_computed_with_holds_them() -> None:
    network = build_chain(lambda n, x: x / x.median())
    assert not units_among(traced_units(network, IMAGES), {("a", "out")})
    assert "median over channels" in reasons_of(network)["a"]


def test_heads_that_only_training_runs_are_traced() -> None:
    """The auxiliary head's batch norm needs two images; its convolution takes in what `a` makes."""

    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.z, self.fc = conv(3, 6), conv(6, 5), nn.Linear(5, CLASSES)
            self.aux, self.norm, self.aux_fc = conv(6, 4, 1), nn.BatchNorm1d(4), nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            x = F.relu(self.a(x))
            y = self.fc(pool_mean(self.z(x)))
            return (y, self.aux_fc(self.norm(pool_mean(self.aux(x))))) if self.training else y

    units = traced_units(Auxiliary().eval(), IMAGES)
    assert {frozenset({("a", "out", c), ("z", "in", c), ("aux", "in", c)}) for c in range(6)} <= units
    assert {frozenset({("aux", "out", c), ("norm", "out", c), ("aux_fc", "in", c)}) for c in range(4)} <= units


def test_layers_that_no_pass_reaches_stay_with_all_their_channels() -> None:
    network = build_chain(lambda n, x: n.other(x) if x.mean() > 1e6 else x, other=conv(6, 6))
    groups = ChannelGroups(network, IMAGES)
    assert groups.skipped["other"] == "no forward pass on noise reached it"
    assert "other" not in {slots.name for group in groups.groups for slots in group.slots}


@pytest.mark.parametrize("wrap", [lambda y: y, lambda y: (y, [y]), lambda y: {"scores": {"main": y}}])
def test_outputs_stay_in_whatever_they_are_returned(wrap: Callable[[Tensor], object]) -> None:
    network = Pieces(lambda n, x: wrap(n.fc(pool_mean(n.a(x)))), a=conv(3, 6), fc=nn.Linear(6, CLASSES))  # type: ignore[arg-type, return-value]
    assert reasons_of(network) == {"fc": "it is an output of the network"}
    assert len(traced_units(network, IMAGES)) == 6


def test_weights_used_without_a_call_of_their_layer_count() -> None:
    network = build_chain(lambda n, x: F.conv2d(x, n.inner.weight, n.inner.bias, padding=1), inner=conv(6, 6))
    units = units_among(traced_units(network, IMAGES), SIDES | {("inner", "in"), ("inner", "out")})
    assert units == {frozenset({("a", "out", c), ("inner", "in", c)}) for c in range(6)} | {
        frozenset({("inner", "out", c), ("z", "in", c)}) for c in range(6)
    }


@pytest.mark.parametrize(
    "norm", [nn.InstanceNorm2d(6), nn.GroupNorm(2, 6, affine=False), nn.LayerNorm(6, elementwise_affine=False)]
)
def test_norms_that_know_their_width_without_a_tensor_are_slots(norm: nn.Module) -> None:
    last = isinstance(norm, nn.LayerNorm)
    network = build_chain(lambda n, x: n.norm(x.movedim(1, -1)).movedim(-1, 1) if last else n.norm(x), norm=norm)
    units = units_among(traced_units(network, IMAGES), SIDES | {("norm", "out")})
    assert units == {frozenset({("a", "out", c), ("norm", "out", c), ("z", "in", c)}) for c in range(6)}


def test_a_parameter_keeps_its_labels_in_every_view_of_it() -> None:
    """The kernel is a transposed part of a parameter that holds two."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        both = n.kernels.transpose(0, 1)  # (2, 6, 3, 1, 1)
        return n.fc(pool_mean(F.relu(F.conv2d(x, both[0])) + F.conv2d(x, both[1])))

    network = Pieces(run_net, kernels=nn.Parameter(torch.randn(6, 2, 3, 1, 1)), fc=nn.Linear(6, CLASSES))
    flow = trace_channels(network, Inputs.of(IMAGES))
    components = flow.labels.components()
    first = {(d.name, d.dim): d.first for d in flow.labels.dimensions}
    for channel in range(6):
        assert components[first["kernels", 0] + channel] == components[first["fc.weight", 1] + channel]
    assert len(set(components[first["kernels", 0] : first["kernels", 0] + 6].tolist())) == 6


def test_a_trace_leaves_modes_hooks_random_state_and_parameters_alone() -> None:
    network = build_chain(lambda n, x: n.norm(F.dropout(x)), norm=nn.BatchNorm2d(6)).train()
    network.norm.eval()
    state, random = {k: v.clone() for k, v in network.state_dict().items()}, torch.get_rng_state()
    modes = [module.training for module in network.modules()]
    trace_groups(network, Inputs.of(IMAGES), trace_layers(network, IMAGES))
    assert [module.training for module in network.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())

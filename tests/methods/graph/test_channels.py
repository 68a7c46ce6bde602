"""Coupled channels of every kind of network, judged from outside.

A pruned network must equal the dense one whose removed channels were emptied (zero filters, biases, statistics), and
which channels those are is read off the biases that are left: nothing that the code says of its groups enters.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coupled_nets import branches, chains, fixed_widths, grouping, sharing
from coupled_nets.pieces import CLASSES, SHAPE, Pieces, conv, pool_mean
from independent import count_cost, empty_removed, randomise_channels
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from methods.base import Compressor, copy_network
from methods.graph.channel_sites import ChannelGroups
from methods.graph.channels import Group, Slots
from methods.graph.flow.call_numbers import CallNumbers
from methods.graph.flow.find import TracedGroups, trace_groups
from methods.graph.trace import trace_layers
from methods.graph.verify import sound_groups
from methods.registry import create
from models.execution.inputs import Inputs
from models.networks.catalog import build_network

# network -> {site: (channels, settings)}; a site of n settings can lose n - 1 times the same number
SITES: dict[Callable[[], nn.Module], dict[str, tuple[int, int]]] = {
    chains.plain: {"c1": (8, 8), "c2": (12, 12)},
    chains.without_norm: {"c1": (8, 8), "c2": (12, 12)},
    chains.norm_without_weights: {"c1": (8, 8), "c2": (12, 12)},
    chains.instance_norm: {"c1": (8, 8), "c2": (12, 12)},
    branches.residual: {"stem": (8, 8), "c1": (6, 6)},
    branches.projection: {"stem": (8, 8), "c1": (6, 6), "short": (10, 10)},
    branches.concat_of_branches: {"stem": (5, 5), "a": (6, 6), "b": (4, 4), "after": (8, 8)},
    branches.dense_connected: {"stem": (6, 6), "c1": (4, 4), "c2": (4, 4)},
    grouping.depthwise: {"expand": (8, 8), "project": (6, 6)},
    grouping.grouped: {"before": (12, 4), "grouped": (18, 6), "after": (8, 8)},
    grouping.transposed_in_groups: {"before": (12, 4), "up": (9, 3), "after": (8, 8)},
    grouping.depth_multiplier: {"stem": (6, 6), "after": (8, 8)},
    grouping.residual_grouped: {"stem": (8, 2)},
    grouping.grouped_after_concat: {"stem": (4, 4), "a": (6, 6), "grouped": (8, 4)},  # a and b together
    branches.squeeze_excite: {"stem": (8, 8), "down": (4, 4), "after": (6, 6)},
    branches.squeeze_excite_linear: {"stem": (8, 8), "down": (4, 4), "after": (6, 6)},
    chains.flatten: {"c1": (8, 8), "c2": (6, 6), "fc1": (10, 10)},
    sharing.shared: {"stem": (8, 8)},
    sharing.alias: {"stem": (8, 8)},
    sharing.tied: {"stem": (8, 8)},
    sharing.shared_on_two_inputs: {"a": (8, 8), "head": (6, 6)},
    chains.group_norm: {"c1": (12, 4), "c2": (8, 8)},
    branches.convnext: {"stem": (8, 8), "wide": (16, 16)},
    chains.prelu: {"c1": (8, 8), "c2": (6, 6)},
    chains.folded_patches: {"c1": (6, 6), "mix": (10, 10), "c2": (8, 8)},
    chains.transposed: {"c1": (8, 8), "up": (6, 6), "c2": (10, 10)},
    chains.odd_kernels: {"c1": (8, 8), "c2": (6, 6), "c3": (10, 10)},
    chains.only_linear: {"a": (10, 10), "b": (8, 8)},
    branches.output_is_sum: {"c1": (8, 8)},
    chains.unused_layer: {"c1": (8, 8)},
    chains.bare_parameters: {"c1": (8, 8), "c2": (12, 12)},
    chains.weight_normed: {"c1": (8, 8), "c2": (12, 12)},
    branches.halves: {"c1": (12, 6), "after": (8, 8)},
    branches.option_a: {"stem": (8, 8), "c1": (6, 6), "c3": (10, 10)},
    branches.product: {"a": (8, 8), "after": (6, 6)},
    branches.concat: {"a": (6, 6), "b": (4, 4), "after": (8, 8)},
    branches.concat_then_flatten: {"a": (6, 6), "b": (4, 4)},
    fixed_widths.pixel_shuffle: {"c1": (8, 2), "c2": (6, 6)},
    fixed_widths.hard_coded_view: {"c1": (8, 8), "c2": (12, 12)},
    fixed_widths.depends_on_width: {"c1": (8, 8), "c2": (12, 12)},
    fixed_widths.writes_into_zeros: {"c1": (8, 8), "c2": (6, 6), "c3": (6, 6)},
    fixed_widths.pads_with_zeros: {"c1": (8, 8), "c2": (4, 4)},  # the first eight of c2 go with c1
    branches.split_paths: {"c1": (4, 4), "c1[4:12]": (8, 8), "left": (6, 6)},
    grouping.shuffle: {"stem": (12, 6), "after": (8, 8)},
    grouping.shuffle_unit: {"stem": (6, 2), "first": (18, 2)},  # the other 12 are in two groups of `last` at once
    grouping.grown_stream: {"stem": (5, 5)},  # together with the channels of `wide`
    branches.attention: {"stem": (8, 8), "attention.query": (8, 4), "attention.value": (8, 4), "wide": (12, 12)},
}

# network -> the layers that must stay dense, each with a word of the reason
DENSE: dict[Callable[[], nn.Module], dict[str, str]] = {
    branches.option_a: {"c4": "add in the network"},
    fixed_widths.checks_its_width: {"c1": "without its channels, the network (fixed_widths.py:"},
    fixed_widths.median_over_channels: {"c1": "median over channels in the network (fixed_widths.py:"},
    fixed_widths.picks_channels: {"c1": "does not run"},
    chains.recurrent: {"stem": "in cell"},
    grouping.residual_grouped: {"c1": "unequal"},
}


def traced_network(network: nn.Module, example: Tensor) -> TracedGroups:
    """What the flow found, without numbers in the code."""
    traced = trace_groups(network, Inputs.of(example), trace_layers(network, example))
    return replace(traced, numbers=CallNumbers([], {}, 0))


ALL = list(dict.fromkeys([*SITES, *DENSE]))


def name_cases(functions: object) -> list[object]:
    return [pytest.param(function, id=function.__name__) for function in functions]  # type: ignore[attr-defined]


def bind_method(network: nn.Module, method: str = "random") -> Compressor:
    return create(method, network, torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1)))


def some_levels(compressor: Compressor) -> list[np.ndarray]:
    """Each site alone at its middle and its end, all at their ends, and random allocations."""
    last = np.array([len(site.settings) - 1 for site in compressor.sites], dtype=np.intp)
    single_sites = [np.where(np.arange(len(last)) == site, level, 0) for site in range(len(last))
             for level in (last[site] // 2, last[site])]  # fmt: skip
    random = np.random.default_rng(0)
    return [np.zeros_like(last), last, *single_sites, *(random.integers(0, last + 1) for _ in range(4))]


@pytest.mark.parametrize("build", name_cases(ALL))
def test_pruned_equals_dense_with_those_channels_emptied(build: Callable[[], nn.Module]) -> None:
    network = randomise_channels(build())
    compressor = bind_method(network)
    images = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(2))
    for levels in some_levels(compressor):
        allocation = compressor.allocation(levels)
        small = compressor.compress(allocation)
        with torch.no_grad():
            outputs, expected = small(images), empty_removed(compressor.network, small)(images)
        assert outputs.shape == (3, CLASSES)
        scale = float(expected.abs().max())
        assert torch.allclose(outputs, expected, atol=1e-4 * scale + 1e-6), (levels, (outputs - expected).abs().max())
        assert compressor.cost_of(allocation) == count_cost(small, images), levels


def count_outputs(layer: nn.Module) -> int:
    """By the weight, that of a transposed convolution in groups being (inputs, outputs per group, ...)."""
    if isinstance(layer, nn.ConvTranspose2d):
        return layer.weight.shape[1] * layer.groups
    return len(layer.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("build", name_cases(ALL))
def test_every_site_loses_what_its_setting_says(build: Callable[[], nn.Module]) -> None:
    compressor = bind_method(randomise_channels(build()))
    for index, site in enumerate(compressor.sites):
        for level, setting in enumerate(site.settings):
            levels = np.zeros(len(compressor.sites), dtype=np.intp)
            levels[index] = level
            small = compressor.compress(compressor.allocation(levels))
            layer = site.name.partition("[")[0]  # a site may be a part of a layer's channels
            lost = count_outputs(compressor.network.get_submodule(layer)) - count_outputs(small.get_submodule(layer))
            assert lost == round(site.channels * float(setting["ratio"]))


@pytest.mark.parametrize("build", name_cases(SITES))
def test_finds_the_sites(build: Callable[[], nn.Module]) -> None:
    compressor = bind_method(build().eval())
    assert {site.name: (site.channels, len(site.settings)) for site in compressor.sites} == SITES[build]


@pytest.mark.parametrize("build", name_cases(DENSE))
def test_leaves_dense_with_a_reason(build: Callable[[], nn.Module]) -> None:
    compressor = bind_method(randomise_channels(build()))
    names = {site.name for site in compressor.sites}
    for layer, word in DENSE[build].items():
        assert layer not in names
        assert word in compressor.skipped[layer]
        assert "\n" not in compressor.skipped[layer]


@pytest.mark.parametrize("build", name_cases(ALL))
def test_the_network_given_is_left_as_it_was(build: Callable[[], nn.Module]) -> None:
    network = build().train()
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear))
    next(first.parameters()).requires_grad_(False)
    first.eval()
    before = copy.deepcopy(network.state_dict())
    modes = {name: module.training for name, module in network.named_modules()}
    frozen = {name: not parameter.requires_grad for name, parameter in network.named_parameters()}
    random = torch.get_rng_state()
    compressor = bind_method(network, "l1")
    small = compressor.compress(compressor.allocation([len(site.settings) - 1 for site in compressor.sites]))
    assert torch.equal(torch.get_rng_state(), random)
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert {name: not parameter.requires_grad for name, parameter in network.named_parameters()} == frozen
    # Layers that compute their weight, and attention, are plain ones in the small network, with other modules inside.
    for name, module in small.named_modules():
        assert module.training == modes.get(name, modes.get(name.rpartition(".")[0]))
    assert all(frozen.get(name, False) == (not p.requires_grad) for name, p in small.named_parameters())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules()
                   if not hasattr(module, "parametrizations"))  # fmt: skip
    small_memory = {p.data_ptr() for p in small.parameters()}
    assert small_memory.isdisjoint(p.data_ptr() for p in network.parameters())


def test_two_outputs_do_not_crash() -> None:
    def run_net(n: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(n.c1(x))
        return n.left(pool_mean(x)), n.right(pool_mean(F.relu(n.c2(x))))

    network = Pieces(run_net, c1=conv(3, 8), c2=conv(8, 6), left=nn.Linear(8, 2), right=nn.Linear(6, 3))
    compressor = bind_method(randomise_channels(network))
    assert {"left", "right"}.isdisjoint(site.name for site in compressor.sites)
    small = compressor.compress(compressor.allocation([len(site.settings) - 1 for site in compressor.sites]))
    assert [tuple(each.shape) for each in small(torch.randn(2, *SHAPE))] == [(2, 2), (2, 3)]


def test_a_network_that_runs_only_once_at_the_right_width_is_left_dense() -> None:
    """The forward pass works for the tracer and breaks only after pruning, in both of its layers."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.c1(x))
        assert x.shape[1] == 8
        x = F.relu(n.c2(x))
        assert x.shape[1] == 6
        return n.fc(x.mean((2, 3)))

    compressor = bind_method(
        randomise_channels(Pieces(run_net, c1=conv(3, 8), c2=conv(8, 6), fc=nn.Linear(6, CLASSES)))
    )
    assert compressor.sites == ()
    assert {"c1", "c2"} <= compressor.skipped.keys()
    assert compressor.cost(np.zeros((2, 0), dtype=np.intp)).flops.tolist() == [compressor.cost.dense.flops] * 2


@pytest.mark.parametrize("how", ["no gradients allowed", "inference mode", "detached", "reentrant checkpoint"])
def test_passes_that_autograd_cannot_follow_are_traced(how: str) -> None:
    """Two layers in a row, whatever the forward pass does with gradients."""

    def features(n: nn.Module, x: Tensor) -> Tensor:
        return F.relu(n.c2(F.relu(n.c1(x))))

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        if how == "no gradients allowed" and torch.is_grad_enabled():
            raise RuntimeError("for inference only")
        with torch.inference_mode(how == "inference mode"):
            if how == "reentrant checkpoint":
                y = checkpoint(partial(features, n), x.detach().requires_grad_(), use_reentrant=True)
            else:
                y = features(n, x).detach() if how == "detached" else features(n, x)
            return n.fc(pool_mean(y))

    compressor = bind_method(
        randomise_channels(Pieces(run_net, c1=conv(3, 8), c2=conv(8, 6), fc=nn.Linear(6, CLASSES)))
    )
    assert {site.name: site.channels for site in compressor.sites} == {"c1": 8, "c2": 6}
    assert set(compressor.skipped) == {"fc"}
    assert "output" in compressor.skipped["fc"]
    # The filters of 3 · 3 positions over (8, 8) places, and the head.
    assert compressor.cost.dense.flops == 9 * 64 * (3 * 8 + 8 * 6) + 6 * CLASSES


def test_outputs_that_are_no_numbers_are_the_reason() -> None:
    network = Pieces(
        lambda n, x: n.fc(pool_mean(F.relu(n.c2(F.relu(n.c1(x)))) * math.nan)),
        c1=conv(3, 8), c2=conv(8, 8), fc=nn.Linear(8, CLASSES),
    )  # fmt: skip
    compressor = bind_method(randomise_channels(network))
    assert compressor.sites == ()
    assert compressor.skipped["c1"] == "the network's outputs are not finite"


def test_a_missed_coupling_is_noticed_though_both_groups_pass_alike() -> None:
    """Two groups of a residual block told apart by force: none may be pruned without the other."""
    network = randomise_channels(branches.residual())
    example = torch.randn(2, *SHAPE)
    groups = ChannelGroups(network, example).groups
    stem = next(group for group in groups if group.name == "stem")
    half = [s for s in stem.slots if s.name in ("c2", "bn2")]
    rest = [s for s in stem.slots if s.name not in ("c2", "bn2")]
    torn = [Group("c2", 8, half, stem.partition), Group("stem", 8, rest, stem.partition)]
    sound, faults = sound_groups(network, Inputs.of(example), torn, traced_network(network, example))
    assert sound == []
    assert faults.keys() == {"c2", "stem"}
    assert sound_groups(network, Inputs.of(example), [stem], traced_network(network, example)) == ([stem], {})


@pytest.mark.parametrize("fault", ["lost consumer", "shifted consumer", "norm forgotten"])
def test_wrong_groups_are_noticed(fault: str) -> None:
    """What a tracer may get wrong: a reader that it did not see, or wrong numbers of channels."""
    network = randomise_channels(branches.convnext() if fault == "norm forgotten" else chains.plain())
    example = torch.randn(2, *SHAPE)
    groups = ChannelGroups(network, example).groups
    group = groups[0]
    if fault == "shifted consumer":
        slots = [
            Slots(s.name, s.side, s.index, s.channel.roll(1) if s.side == "in" else s.channel) for s in group.slots
        ]
    else:
        lost = {"lost consumer": "c2", "norm forgotten": "norm"}[fault]
        slots = [s for s in group.slots if s.name != lost]
    wrong = Group(group.name, group.channels, slots, group.partition)
    sound, faults = sound_groups(network, Inputs.of(example), [wrong], traced_network(network, example))
    assert sound == []
    assert group.name in faults


def test_a_reason_is_given_for_each_group_alone() -> None:
    """A faulty group does not take the sound ones with it."""
    compressor = bind_method(randomise_channels(fixed_widths.checks_its_width()))
    assert [site.name for site in compressor.sites] == ["c2"]


@pytest.mark.parametrize("name", ["resnet20", "resnet110"])
def test_option_a_networks_of_ours_have_all_their_sites(name: str) -> None:
    """3 blocks of n residual units: n inner convolutions each, and three streams that their additions couple."""
    compressor = create("l1", build_network(name, classes=10), torch.randn(2, 3, 32, 32))
    inner = 3 * (int(name.removeprefix("resnet")) - 2) // 6
    assert len(compressor.sites) == inner + 3
    assert sum(site.channels for site in compressor.sites) == (16 + 32 + 64) * (inner // 3 + 1)


def test_copies_share_nothing_and_hold_no_gradients() -> None:
    network = chains.plain()
    network(torch.randn(2, *SHAPE)).sum().backward()
    twin = copy_network(network)
    assert all(parameter.grad is None for parameter in twin.parameters())
    assert all(parameter.grad is not None for parameter in network.parameters())

"""Masked networks against what is computed by hand from the kept channels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from methods.graph.channel_sites import ChannelGroups
from methods.graph.channels import set_partitions
from methods.graph.flow.call_numbers import CallNumbers
from methods.graph.flow.find import trace_groups
from methods.graph.masking import masked_outputs
from methods.graph.trace import trace_layers
from methods.graph.verify import sound_groups
from models.execution.inputs import Inputs


class Similarities(nn.Module):
    """Attention by hand; its scale does not depend on the width."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)

    def forward(self, images: Tensor) -> Tensor:
        return torch.softmax(self.query(images).flatten(2).mT @ self.key(images).flatten(2), 2).mT


def test_products_of_activations_leave_removed_channels_out() -> None:
    torch.manual_seed(0)
    network, images = Similarities(), torch.randn(2, 3, 4, 4)
    traced = trace_groups(network, Inputs.of(images), trace_layers(network, images))
    (group,) = traced.groups
    assert group.name == "query"
    kept = torch.tensor([0, 2, 3, 7])
    (output,) = masked_outputs(network, [group], {"query": kept}, Inputs.of(images), traced)
    queries, keys = network.query(images)[:, kept].flatten(2), network.key(images)[:, kept].flatten(2)
    assert torch.allclose(output, torch.softmax(torch.einsum("bci,bcj->bij", queries, keys), 2).mT, atol=1e-6)
    assert not torch.allclose(output, network(images), atol=1e-2)


def test_attention_by_hand_loses_channels_of_queries_and_keys() -> None:
    groups = ChannelGroups(Similarities(), torch.randn(2, 3, 4, 4))
    assert [group.name for group in groups.groups] == ["query"]


class ScaledByWidth(Similarities):
    """Its scale holds the width."""

    def forward(self, images: Tensor) -> Tensor:
        queries, keys = self.query(images).flatten(2), self.key(images).flatten(2)
        return torch.softmax(queries.mT @ keys * queries.shape[1] ** -0.5, 2).mT


def test_a_scale_by_the_width_is_seen_by_the_trial() -> None:
    """It is written anew; without that, the trial fails."""
    network, images = ScaledByWidth(), torch.randn(2, 3, 4, 4)
    assert [group.name for group in ChannelGroups(network, images).groups] == ["query"]
    traced = trace_groups(network, Inputs.of(images), trace_layers(network, images))
    set_partitions(traced.groups, network)
    without = replace(traced, numbers=CallNumbers([], {}, 0))
    reason = "removing its channels changes more than those channels"
    assert sound_groups(network, Inputs.of(images), traced.groups, without) == ([], {"query": reason})


class LastNorm(nn.LayerNorm):
    """A layer norm of somebody's own, over the last dimension as the original."""


class SecondNorm(nn.LayerNorm):
    """A layer norm over the second dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Normed(nn.Module):
    """Eight channels on 8 x 8 places, so that shapes do not tell which dimension a norm is over."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 1), norm, nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        if isinstance(self.norm, SecondNorm):
            return self.fc(self.norm(x).mean((2, 3)))
        return self.fc(self.norm(x.permute(0, 2, 3, 1)).mean((1, 2)))


class NormedBesideProducts(Normed):
    """Masking follows labels through every operator here."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__(norm)
        self.similarities = Similarities()

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + self.similarities(images).square().mean()


@pytest.mark.parametrize("kind", [LastNorm, SecondNorm])
def test_norms_beside_products_of_activations_are_no_obstacle(kind: type[nn.LayerNorm]) -> None:
    torch.manual_seed(0)
    groups = ChannelGroups(NormedBesideProducts(kind(8)), torch.randn(2, 3, 8, 8))
    assert {group.name for group in groups.groups} == {"conv", "similarities.query"}


@pytest.mark.parametrize("kind", [LastNorm, SecondNorm])
@torch.no_grad()
def test_the_dimension_of_a_norm_is_found(kind: type[nn.LayerNorm]) -> None:
    torch.manual_seed(0)
    network, images = Normed(kind(8)), torch.randn(2, 3, 8, 8)
    traced = trace_groups(network, Inputs.of(images), trace_layers(network, images))
    kept = torch.tensor([0, 2, 3, 7])
    (output,) = masked_outputs(network, traced.groups, {"conv": kept}, Inputs.of(images), traced)
    normed = nn.functional.layer_norm(network.conv(images)[:, kept].permute(0, 2, 3, 1), (4,))
    expected = normed.mean((1, 2)) @ network.fc.weight[:, kept].T + network.fc.bias
    assert torch.allclose(output, expected, atol=1e-5)


class RefusesZeros(nn.Module):
    """A norm over channels, of which masking leaves zeros; the code checks that no channel is constant."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 8, 1), nn.GroupNorm(1, 8), nn.Conv2d(8, 6, 1)
        self.fc = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.conv(images))
        if 0 in (x.amax((2, 3)) - x.amin((2, 3))).flatten().tolist():
            raise ValueError("a dead channel")
        return self.fc(self.last(x).relu().mean((2, 3)))


def test_channels_stay_where_the_masked_network_does_not_run() -> None:
    torch.manual_seed(0)
    groups = ChannelGroups(RefusesZeros(), torch.randn(2, 3, 8, 8))
    assert [site.name for site in groups.sites] == ["last"]
    assert groups.skipped["conv"].startswith("the network does not run with its channels masked")


class ByKeyword(nn.Module):
    """Layers that masking hooks into, called by keyword: a norm of channels, one without tensors, a grouped layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.bare = nn.Conv2d(3, 8, 1), nn.GroupNorm(4, 8), nn.InstanceNorm2d(8)
        self.grouped, self.last = nn.Conv2d(8, 8, 1, groups=4), nn.utils.parametrizations.weight_norm(nn.Linear(8, 4))
        self.by_keyword = True

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        for layer in (self.norm, self.bare, self.grouped):
            x = layer(input=x) if self.by_keyword else layer(x)
        x = x.relu().mean((2, 3))
        return self.last(input=x) if self.by_keyword else self.last(x)


def test_layers_called_by_keyword_are_masked_as_others() -> None:
    torch.manual_seed(0)
    network, images = ByKeyword().eval(), torch.randn(2, 3, 8, 8)
    sites = []
    for by_keyword in (True, False):
        network.by_keyword = by_keyword
        sites.append([(site.name, site.widths) for site in ChannelGroups(network, images).sites])
    assert sites[0] == sites[1] != []

"""Channels that are measured together: without some of them, the others are measured alone.

What a narrowed network must do is computed by the same function of the kept channels, with weights sliced by hand.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from coupled_nets.pieces import CLASSES, SHAPE, Pieces, conv, pool_mean
from torch import Tensor, nn

from methods.graph.channel_sites import ChannelGroups
from methods.graph.flow.find import trace_groups
from methods.graph.masking import masked_outputs
from methods.graph.trace import trace_layers
from methods.registry import create
from models.execution.inputs import Inputs

WIDTH = 8
IMAGES = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))


def relative(x: Tensor) -> Tensor:
    """GRN of ConvNeXt-V2."""
    response = x.norm(dim=(2, 3), keepdim=True)
    return x * response / (response.mean(1, keepdim=True) + 1e-6)


def normalised(x: Tensor) -> Tensor:
    """LayerNorm over channels by hand."""
    mean = x.mean(1, keepdim=True)
    return (x - mean) / ((x - mean).pow(2).mean(1, keepdim=True) + 1e-6).sqrt()


def among_channels(x: Tensor) -> Tensor:
    """Attention whose scores compare channels (XCiT), of one head."""
    tokens = F.normalize(x.flatten(2), dim=2)
    return ((tokens @ tokens.mT) * 2).softmax(-1) @ x.flatten(2)


def largest(x: Tensor) -> Tensor:
    """Where the largest channel stands is an index among all channels."""
    values, places = x.max(1, keepdim=True)
    return x * torch.sigmoid(values - x.gather(1, places)) + values


MEASURED: dict[str, Callable[[Tensor], Tensor]] = {
    "CBAM": lambda x: x * torch.sigmoid(x.mean(1, keepdim=True) + x.max(1, keepdim=True)[0] - x.amin(1, keepdim=True)),
    "largest of all": lambda x: x / x.max() + x / x.amax((1, 2, 3), keepdim=True),
    "relative responses": relative,
    "norm by hand": normalised,
    "functional norm": lambda x: F.layer_norm(x.movedim(1, 3), (x.shape[1],)).movedim(3, 1),
    "root mean square": lambda x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6),
    "spread": lambda x: (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True),
    "softmax": lambda x: x.softmax(1) + x.log_softmax(1),
    "smooth maximum": lambda x: x - x.logsumexp(1, keepdim=True),
    "product": lambda x: x + x.sigmoid().prod(1, keepdim=True),
    "attention among channels": among_channels,
    "one number": lambda x: x / (1 + x.mean().abs()),
    "vector of the batch": lambda x: x / (1 + x.abs().mean((0, 2, 3)).max()),
    "vector of every image": lambda x: torch.stack([y * y.mean((1, 2)).softmax(0)[:, None, None] for y in x]),
    "flattened": lambda x: x - x.flatten(1).mean(1)[:, None, None, None],
}


def build_network(between: Callable[[Tensor], Tensor], width: int = WIDTH) -> nn.Module:
    torch.manual_seed(0)
    return Pieces(
        lambda n, x: n.fc(pool_mean(F.relu(n.z(between(n.a(x)).reshape(len(x), -1, *SHAPE[1:]))))),
        a=conv(3, width), z=conv(width, 6), fc=nn.Linear(6, CLASSES),
    ).eval()  # fmt: skip


def narrow_by_hand(network: nn.Module, between: Callable[[Tensor], Tensor], kept: Tensor) -> nn.Module:
    small = build_network(between, len(kept))
    state = network.state_dict()
    state |= {name: state[name][kept] for name in ("a.weight", "a.bias")} | {"z.weight": state["z.weight"][:, kept]}
    small.load_state_dict(state)
    return small


@pytest.mark.parametrize("name", MEASURED)
@torch.no_grad()
def test_the_masked_network_measures_the_channels_that_are_left(name: str) -> None:
    network, images, kept = build_network(MEASURED[name]).double(), IMAGES.double(), torch.tensor([0, 2, 3, 5, 7])
    traced = trace_groups(network, Inputs.of(images), trace_layers(network, images))
    (output,) = masked_outputs(network, traced.groups, {"a": kept}, Inputs.of(images), traced)
    torch.testing.assert_close(output, narrow_by_hand(network, MEASURED[name], kept).double()(images))
    assert not torch.allclose(output, network(images), rtol=1e-3)


@pytest.mark.parametrize("name", MEASURED)
@torch.no_grad()
def test_channels_that_are_measured_can_be_removed(name: str) -> None:
    network = build_network(MEASURED[name])
    compressor = create("l1", network, IMAGES)
    assert {site.name: len(site.settings) for site in compressor.sites} == {"a": WIDTH, "z": 6}
    small = compressor.compress(compressor.allocation([3, 0]))
    norms = network.get_parameter("a.weight").abs().sum((1, 2, 3))
    kept = norms.topk(5).indices.sort().values
    torch.testing.assert_close(small(IMAGES), narrow_by_hand(network, MEASURED[name], kept)(IMAGES))


def test_of_channels_in_groups_whole_groups_can_go() -> None:
    """Each of four groups is normalised by itself; what is left of them is what it was."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        parts = n.a(x).unflatten(1, (-1, 2))
        return n.fc(pool_mean(F.relu(n.z((parts - parts.mean(2, keepdim=True)).flatten(1, 2)))))

    torch.manual_seed(0)
    network = Pieces(run_net, a=conv(3, WIDTH), z=conv(WIDTH, 6), fc=nn.Linear(6, CLASSES))
    assert {site.name: len(site.settings) for site in ChannelGroups(network, IMAGES).sites} == {"a": 4, "z": 6}


def test_code_that_counts_the_channels_leaves_them_with_the_measure_as_the_reason() -> None:
    network = build_network(lambda x: x * x.mean(1, keepdim=True) * torch.eye(x.shape[1]).sum())
    groups = ChannelGroups(network, IMAGES)
    assert [site.name for site in groups.sites] == ["z"]
    assert groups.skipped["a"].startswith("removing its channels changes more than those channels, which mean over")
    assert "test_reductions.py:" in groups.skipped["a"]

"""Costs of networks that do other work for a batch than for its images, or that start from zeros, to the unit.

What is expected is counted by torch on the network that is really narrower, on one image.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from coupled_nets.pieces import CLASSES, Pieces, conv, pool_mean
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from methods.graph.trace import trace_layers
from methods.registry import create

IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def learned_queries() -> nn.Module:
    """Queries that are expanded over the batch and go through layers before they meet the image."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        queries = n.queries.expand(len(x), -1, -1)
        queries = queries + n.down(F.relu(n.up(queries)))
        return n.fc(queries + pool_mean(F.relu(n.stem(x)))[:, None]).mean(1)

    return Pieces(
        run_net, stem=conv(3, 16), queries=nn.Parameter(torch.randn(1, 6, 16)), up=nn.Linear(16, 32),
        down=nn.Linear(32, 16), fc=nn.Linear(16, CLASSES),
    )  # fmt: skip


def attention_pooling() -> nn.Module:
    """Learned queries in fused attention, which torch runs as two products once keys and values differ in width."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        tokens = F.relu(n.stem(x)).flatten(2).transpose(1, 2)
        queries = n.query(n.queries.expand(len(x), -1, -1))
        return n.fc(F.scaled_dot_product_attention(queries, n.key(tokens), n.value(tokens))).mean(1)

    return Pieces(
        run_net, stem=conv(3, 16), queries=nn.Parameter(torch.randn(1, 6, 16)), query=nn.Linear(16, 16),
        key=nn.Linear(16, 16), value=nn.Linear(16, 16), fc=nn.Linear(16, CLASSES),
    )  # fmt: skip


def experts() -> nn.Module:
    """Tokens of all images are sorted to two experts: how many each of them gets is no multiple of the batch."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        tokens = F.relu(n.stem(x)).flatten(2).transpose(1, 2)
        first = n.gate(tokens).argmax(-1) == 0
        outputs = tokens.clone()
        outputs[first] = n.back(F.relu(n.wide(tokens[first])))
        return n.fc(outputs.mean(1))

    return Pieces(
        run_net, stem=conv(3, 16), gate=nn.Linear(16, 2), wide=nn.Linear(16, 24), back=nn.Linear(24, 16),
        fc=nn.Linear(16, CLASSES),
    )  # fmt: skip


def recurrent_from_zeros() -> nn.Module:
    """A state that is zero in the first step has no labels there, beside channels that have some."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        y = F.relu(n.stem(x))
        state = torch.zeros(len(y), 8, *y.shape[2:])
        for _ in range(3):
            state = torch.tanh(n.cell(torch.cat([y, state], 1)))
        return n.fc(pool_mean(state))

    return Pieces(run_net, stem=conv(3, 16), cell=conv(24, 8), fc=nn.Linear(8, CLASSES))


def unfolded_with_padding() -> nn.Module:
    """Patches of a padded image: where they hang over its edge, nothing there stems from a channel."""

    def run_net(n: nn.Module, x: Tensor) -> Tensor:
        y = F.relu(n.stem(x))
        return n.fc(pool_mean(F.relu((n.wide @ F.unfold(y, 3, padding=1)).view(y.shape[0], -1, *y.shape[2:]))))

    return Pieces(
        run_net, stem=conv(3, 16), wide=nn.Parameter(torch.randn(12, 16 * 9) * 0.1), fc=nn.Linear(12, CLASSES)
    )


def count_multiplications(network: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.requires_grad_(False)(IMAGES[:1])
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("batch", [1, 2, 8])
@pytest.mark.parametrize(
    ("build", "sites"),
    [
        (learned_queries, {"down", "up"}),
        (experts, {"wide"}),
        (recurrent_from_zeros, {"stem"}),
        (unfolded_with_padding, {"stem", "wide"}),
    ],
)
def test_costs_are_those_of_one_image(build: Callable[[], nn.Module], sites: set[str], batch: int) -> None:
    torch.manual_seed(0)
    network = build().eval()
    compressor = create("l1", network, IMAGES[:batch])
    assert sites <= {site.name for site in compressor.sites}
    for share in (0.0, 0.4, 0.9):
        levels = [int(share * len(site.settings)) for site in compressor.sites]
        allocation = compressor.allocation(levels)
        small = compressor.compress(allocation)
        assert compressor.cost_of(allocation).flops == count_multiplications(small)


@pytest.mark.parametrize("batch", [1, 2])
def test_the_scores_of_learned_queries_count_for_no_layer(batch: int) -> None:
    torch.manual_seed(0)
    compressor = create("l1", attention_pooling().eval(), IMAGES[:batch])
    assert {site.name for site in compressor.sites} == {"stem", "query", "value"}
    levels = [len(site.settings) * (1 + number) // 4 for number, site in enumerate(compressor.sites)]
    allocation = compressor.allocation(levels)
    small = compressor.compress(allocation)
    tokens = {"stem": 64, "query": 6, "key": 64, "value": 64, "fc": 6}
    expected = {name: rows * small.get_submodule(name).weight.numel() for name, rows in tokens.items()}  # type: ignore[operator]
    assert {name: use.flops for name, use in trace_layers(small, IMAGES[:batch]).items()} == expected
    assert compressor.cost_of(allocation).flops == sum(expected.values())

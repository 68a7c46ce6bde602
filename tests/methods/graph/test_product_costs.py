"""Costs of weights that are applied in every form, to the unit, at random widths.

What is expected is counted on the network that is really narrower, by torch and by closed forms for what torch does not
count (LSTM, bilinear layers), or written as a formula of the widths.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from coupled_nets import applied_weights as nets
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.flop_counter import FlopCounterMode

from methods.base import Compressor
from methods.dense_shares import dense_shares
from methods.graph.trace import trace_layers
from methods.registry import create

Build = Callable[[], nn.Module]
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

# network -> site: the least number of its channels
NETWORKS: dict[Build, dict[str, int]] = {
    nets.along_rows: {"stem": 1, "last": 1},
    nets.folded_into_batch: {"stem": 1, "last": 1},
    nets.mixer: {"stem": 1, "tokens": 1, "wide": 1},
    nets.rows_of_channels: {"stem": 1, "last": 1},
    nets.on_the_right: {"stem": 1, "wide": 1, "back": 1},
    nets.on_the_left: {"stem": 1, "wide": 1, "back": 1},
    nets.einsum: {"stem": 2, "wide": 2, "back": 1},
    nets.bank_of_heads: {"stem": 8, "bank": 1, "last": 1},
    nets.bank_of_experts: {"stem": 1, "wide": 1, "back": 1},
    nets.functional_transposed: {"stem": 1, "kernel": 1, "up": 1},
    nets.low_rank: {"stem": 1, "down": 1, "up": 1},
    nets.low_rank_beside_a_layer: {"stem": 1, "down": 1, "up": 1},
    nets.scaled_weights: {"first": 1, "second": 1},
    nets.part_of_a_weight: {"stem": 1, "part": 1, "last": 1},
    nets.on_a_buffer: {"stem": 1, "wide": 1},
    nets.grouped: {"stem": 2, "point": 2},
    nets.recurrent: {"last": 1},
    nets.gated: {"last": 1},
    nets.mixed_bank: {"stem": 1, "router": 2, "bank": 1},
    nets.bilinear: {"last": 1},
}


def bind_method(build: Build) -> Compressor:
    torch.manual_seed(0)
    return create("l1", build().eval(), IMAGES)


def count_multiplications(network: nn.Module) -> int:
    extra = [0]

    def count_all_matrices(layer: nn.Module, inputs: tuple[Tensor, ...], _: object) -> None:
        matrices = sum(parameter.numel() for parameter in layer.parameters() if parameter.dim() > 1)
        extra[0] += inputs[0].shape[:-1].numel() * matrices

    for module in network.modules():
        if isinstance(module, (nn.LSTM, nn.Bilinear)):
            module.register_forward_hook(count_all_matrices)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(IMAGES[:1])
    return counter.get_total_flops() // 2 + extra[0]


@pytest.mark.parametrize("build", NETWORKS, ids=lambda build: build.__name__)
def test_costs_at_random_widths_are_those_of_the_narrower_network(build: Build) -> None:
    compressor = bind_method(build)
    assert {site.name: site.widths[-1] for site in compressor.sites} == NETWORKS[build]
    sizes = [len(site.settings) for site in compressor.sites]
    rng = np.random.default_rng(0)
    rows = np.stack([np.zeros_like(sizes), np.array(sizes) - 1, *(rng.integers(sizes) for _ in range(6))])
    costs = compressor.cost(rows)
    for row, flops, params in zip(rows, costs.flops, costs.params, strict=True):
        small = compressor.compress(compressor.allocation(row)).eval()
        # Of activations, which einsum multiplies element by element where it sums over one of them.
        mixture = small.bank[0].numel() if build is nets.mixed_bank and small.bank.shape[2] > 1 else 0
        assert flops == count_multiplications(small) - mixture, row
        assert params == sum(parameter.numel() for parameter in small.parameters()), row


# network -> its FLOPs by the widths of its sites
FORMULAS: dict[Build, Callable[..., int]] = {
    nets.along_rows: lambda stem, last: 64 * 3 * stem + 8 * stem * 8 * 8 + 36 * 9 * stem * last + 4 * last,
    nets.folded_into_batch: lambda stem, last: 64 * 27 * stem + 16 * 9 * stem + 4 * 9 * stem * last + 4 * last,
    nets.mixer: lambda stem, tokens, wide: 16 * 12 * stem + 2 * stem * 16 * tokens + 2 * 16 * stem * wide + 4 * stem,
    nets.on_the_right: lambda stem, wide, back: 64 * 3 * stem + stem * wide + wide * back + 4 * back,
    nets.bank_of_experts: lambda stem, wide, back: 64 * (3 * stem + 3 * stem * wide + 3 * wide * back) + 4 * back,
    nets.low_rank: lambda stem, up, down: 64 * 3 * stem + up * down * stem + stem * up + 4 * up,
    nets.recurrent: lambda last: 64 * 36 + 64 * 4 * 24 * (12 + 6) + 12 * last + 4 * last,
}


@pytest.mark.parametrize("build", FORMULAS, ids=lambda build: build.__name__)
def test_costs_are_these_formulas_of_the_widths(build: Build) -> None:
    compressor = bind_method(build)
    rng = np.random.default_rng(1)
    rows = np.stack([rng.integers([len(site.settings) for site in compressor.sites]) for _ in range(20)])
    widths = [
        {site.name: site.widths[level] for site, level in zip(compressor.sites, row, strict=True)} for row in rows
    ]
    assert compressor.cost(rows).flops.tolist() == [FORMULAS[build](**kept) for kept in widths]


def ordered_slices(shape: torch.Size, dim: int) -> tuple[Tensor, Tensor]:
    """A weight whose slices along `dim` have different norms, in no order; and the order of their norms."""
    order = torch.randperm(shape[dim], generator=torch.Generator().manual_seed(3))
    return torch.ones(shape) * (1.0 + order).reshape([-1 if d == dim else 1 for d in range(len(shape))]), order


@pytest.mark.parametrize(
    ("build", "weight", "dim"),
    [
        (nets.on_the_right, "wide", 1),
        (nets.on_the_left, "wide", 0),
        (nets.einsum, "wide", 0),
        (nets.einsum, "back", 1),
        (nets.bank_of_heads, "bank", 2),
        (nets.bank_of_experts, "wide", 2),
        (nets.functional_transposed, "kernel", 0),
        (nets.functional_transposed, "up", 1),
        (nets.low_rank, "up", 0),
        (nets.low_rank, "down", 0),
        (nets.scaled_weights, "second", 0),
    ],
)
def test_the_largest_outputs_of_a_bare_weight_stay(build: Build, weight: str, dim: int) -> None:
    network = build().eval()
    values, order = ordered_slices(network.get_parameter(weight).shape, dim)
    network.get_parameter(weight).data.copy_(values)
    compressor = create("l1", network, IMAGES)
    levels = [len(site.settings) // 2 if site.name == weight else 0 for site in compressor.sites]
    small = compressor.compress(compressor.allocation(np.array(levels, dtype=np.intp)))
    left = small.get_parameter(weight).shape[dim]
    assert left < len(order)
    stays = (order >= len(order) - left).nonzero().flatten()
    assert torch.equal(small.get_parameter(weight), values.index_select(dim, stays))


def test_weights_that_only_read_channels_are_not_owned_by_their_site() -> None:
    owned = {site.name: site.owned for site in bind_method(nets.on_the_right).sites}
    assert owned == {"stem": ("stem",), "wide": ("wide",), "back": ("back",)}


def test_recurrent_layers_are_among_the_dense_shares_with_a_reason() -> None:
    compressor = bind_method(nets.recurrent)
    shares = {layer: share for share in dense_shares(compressor, compressor.skipped) for layer in share.layers}
    dense = compressor.cost.dense.flops
    for direction in ("l0", "l0_reverse", "l1", "l1_reverse"):
        share = shares[f"cell.weight_ih_{direction}"]
        assert "a recurrent layer, through which channels are not followed" in share.reason
    assert share.share == pytest.approx((64 * 4 * 24 * (12 + 6) + 64 * 36) / dense)  # and what comes before it


class Bounded(nn.Module):
    """A parametrisation that no plain layer stands for while it trains."""

    def forward(self, weight: Tensor) -> Tensor:
        return torch.tanh(weight)


def test_computed_weights_count_for_their_layer_and_the_power_iteration_for_none() -> None:
    network = nn.Sequential(
        parametrizations.spectral_norm(nn.Conv2d(3, 6, 1)), nn.Flatten(), nn.Linear(6 * 64, 5), nn.Linear(5, 4)
    )
    parametrize.register_parametrization(network[2], "weight", Bounded())
    uses = trace_layers(network, IMAGES)
    assert {name: use.flops for name, use in uses.items()} == {"0": 64 * 18, "2": 6 * 64 * 5, "3": 20}


def test_what_no_image_reaches_is_counted_once_for_a_batch() -> None:
    network = nets.on_a_buffer()
    for batch in (1, 3):
        uses = trace_layers(network, torch.randn(batch, 3, 8, 8))
        assert (uses["wide"].flops, uses["back"].flops) == (64 * 20, 64 * 120)


def test_shares_of_positions_and_activations() -> None:
    """For the latency of what channels are positions of."""
    cost = bind_method(nets.along_rows).cost
    levels = np.array([[0, 0], [6, 0], [6, 8]])
    assert cost.layers == ("stem", "rows", "last", "head")
    assert cost.position_shares(levels).tolist() == [[1, 1, 1, 1], [1, 0.5, 1, 1], [1, 0.5, 1, 1]]
    assert cost.written_elements(levels).tolist() == [
        64 * stem + 64 * stem + 36 * last + 4 for stem, last in ((12, 16), (6, 16), (6, 8))
    ]

"""The ladder of ranks against all pairs of ranks, compared one by one."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from methods.lowrank.ranks import LayerShape, Ranks, ranks_up_to, undominated_ranks

SHAPES = [
    LayerShape(8, 6, 9, 100, 100, 100),
    LayerShape(6, 10, 9, 100, 25, 25),  # strided
    LayerShape(6, 5, 4, 25, 25, 100),  # transposed
    LayerShape(12, 7, 1, 1, 1, 1),
]


def _falling_damages(shape: LayerShape, seed: int) -> Tensor:
    """(C, N), falling along both, zero at full ranks."""
    steps = torch.rand(shape.channels, shape.outputs, generator=torch.Generator().manual_seed(seed)).double()
    table = steps.flip(0, 1).cumsum(0).cumsum(1).flip(0, 1)
    return table - table[-1, -1]


def _count_flops(shape: LayerShape, ranks: Ranks) -> tuple[int, int]:
    """FLOPs and parameters, layer by layer."""
    layers = [(shape.core_positions, shape.taps * ranks.inputs * ranks.outputs)]
    if ranks.inputs < shape.channels:
        layers.append((shape.in_positions, shape.channels * ranks.inputs))
    if ranks.outputs < shape.outputs:
        layers.append((shape.out_positions, shape.outputs * ranks.outputs))
    return sum(positions * weights for positions, weights in layers), sum(weights for _, weights in layers)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES)
def test_ladder_holds_the_pairs_that_no_other_beats(shape: LayerShape, seed: int) -> None:
    damages = _falling_damages(shape, seed)
    in_ranks, out_ranks = range(1, shape.channels + 1), range(1, shape.outputs + 1)
    dense = _count_flops(shape, Ranks(shape.channels, shape.outputs))
    pairs = {}
    for ranks in itertools.starmap(Ranks, itertools.product(in_ranks, out_ranks)):
        flops, params = _count_flops(shape, ranks)
        assert tuple(map(int, shape.weight_costs(*ranks))) == (flops, params)
        if flops < dense[0] and params < dense[1]:
            pairs[ranks] = (flops, float(damages[ranks.inputs - 1, ranks.outputs - 1]))
    undominated = {
        ranks: (flops, damage)
        for ranks, (flops, damage) in pairs.items()
        if not any(other != ranks and figures[0] <= flops and figures[1] <= damage for other, figures in pairs.items())
    }
    ladder = undominated_ranks(shape, in_ranks, damages, out_ranks)
    assert 2 < len(undominated) <= 64
    assert dict(ladder) == {ranks: figures[1] for ranks, figures in undominated.items()}
    flops = [undominated[ranks][0] for ranks, _ in ladder]
    assert flops == sorted(flops, reverse=True)
    lost = [damage for _, damage in ladder]
    assert lost == sorted(lost)


def test_long_ladders_are_thinned_evenly_and_keep_their_ends() -> None:
    shape = LayerShape(200, 200, 9, 10, 10, 10)
    losses = torch.linspace(1, 0, 200).double()[None] ** 2
    ladder = undominated_ranks(shape, [200], losses, range(1, 201))
    out_ranks = [ranks.outputs for ranks, _ in ladder]
    assert len(ladder) == 64
    assert out_ranks[0] == max(rank for rank in range(1, 201) if rank * (9 * 200 + 200) < 9 * 200 * 200)
    assert out_ranks[-1] == 1
    gaps = {first - second for first, second in itertools.pairwise(out_ranks)}
    assert gaps <= {2, 3}


def test_ranks_that_lose_nothing_over_cheaper_ones_are_left_out() -> None:
    """A layer of rank 3: more directions than three repair rounding only."""
    shape = LayerShape(8, 8, 9, 1, 1, 1)
    losses = torch.tensor([[4.0, 1.0, 3e-12, 2e-12, 1e-12, 0.0, 0.0, 0.0]]).double()
    assert [ranks.outputs for ranks, _ in undominated_ranks(shape, [8], losses, range(1, 9))] == [3, 2, 1]


def test_layers_too_small_to_be_taken_apart_have_none() -> None:
    assert undominated_ranks(LayerShape(1, 1, 9, 4, 4, 4), [1], torch.zeros(1, 1).double(), [1]) == []


@pytest.mark.parametrize(("width", "multiple", "expected"), [
    (1, 1, [1]), (4, 1, [1, 2, 3, 4]), (20, 8, [1, 2, 4, 8, 16, 20]), (16, 8, [1, 2, 4, 8, 16]), (5, 8, [1, 2, 4, 5]),
    (16, 16, [1, 2, 4, 8, 16]), (64, 16, [1, 2, 4, 8, 16, 32, 48, 64]), (7, 6, [1, 3, 6, 7]), (1, 16, [1]),
])  # fmt: skip
def test_ranks_are_multiples_and_their_halves_and_the_width(width: int, multiple: int, expected: list[int]) -> None:
    assert ranks_up_to(width, multiple) == expected


@pytest.mark.parametrize("shape", SHAPES)
def test_ranks_are_cut_to_widths_and_refused_where_they_save_nothing(shape: LayerShape) -> None:
    narrow = shape.narrowed(4, 3)
    plain = shape.core_positions * shape.taps * 4 * 3
    for ranks in itertools.starmap(Ranks, itertools.product((1, 2, 4, 9), (1, 2, 3, 9))):
        cut = Ranks(min(ranks.inputs, 4), min(ranks.outputs, 3))
        expected = cut if _count_flops(narrow, cut)[0] < plain else None
        assert narrow.fitting_ranks(ranks) == expected

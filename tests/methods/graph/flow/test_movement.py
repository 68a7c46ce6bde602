"""Operators that move data, against what changes when one channel does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from channel_oracle import changed_units, traced_units, units_among
from coupled_nets.pieces import CLASSES, Pieces, conv, pool_mean
from torch import Tensor, nn

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def two_producers(between: Callable[[nn.Module, Tensor, Tensor], Tensor], channels: int = 12) -> nn.Module:
    """`between` makes the input of the convolution `z` from the outputs of `a` and `b`, each (N, 12, 8, 8)."""
    torch.manual_seed(0)
    return Pieces(
        lambda n, x: n.fc(pool_mean(n.z(between(n, n.a(x), n.b(x))))),
        a=conv(3, 12), b=conv(3, 12), z=conv(channels, 5), fc=nn.Linear(5, CLASSES),
        order=nn.Parameter(torch.tensor([3, 1, 0, 2, 7, 5, 6, 4, 9, 8, 11, 10]), requires_grad=False),
    ).eval()  # fmt: skip


def overwrite(n: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    a = a.clone()
    a[:, :4] = b[:, 4:8]
    return a


def overwrite_positions(n: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    a = a.clone()
    a[:, :, ::2] += b[:, :, ::2]
    return a


def add_through_view(n: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    a = a.clone()
    a.transpose(1, 2).narrow(2, 6, 6).add_(b[:, :6].transpose(1, 2))
    return a


def gather_rows(n: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    """As pools of several levels are gathered: by numbers of rows, and by a mask."""
    rows = torch.arange(len(a) + len(b))
    gathered = a.new_zeros(len(rows), *a.shape[1:])
    gathered[rows[::2]] = a
    gathered[rows % 2 == 1] = b
    return gathered


Between = Callable[[nn.Module, Tensor, Tensor], Tensor]

MOVES: dict[str, tuple[Between, int]] = {
    "cat": (lambda n, a, b: torch.cat([b, a], 1), 24),
    "cat with itself": (lambda n, a, b: torch.cat([a, b, a], 1), 36),
    "cat along positions": (lambda n, a, b: torch.cat([a, b], 2), 12),
    "flip": (lambda n, a, b: a.flip(1) + b, 12),
    "roll": (lambda n, a, b: a.roll(5, 1) + b, 12),
    "repeat": (lambda n, a, b: a.repeat(1, 2, 1, 1) + torch.cat([b, b], 1), 24),
    "repeat interleaved": (lambda n, a, b: a.repeat_interleave(2, 1), 24),
    "permute and back": (lambda n, a, b: (a.permute(0, 2, 3, 1) + b.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), 12),
    "index by a list": (lambda n, a, b: a[:, [3, 1, 0, 2, 7, 5, 6, 4, 9, 8, 11, 10]] + b, 12),
    "index by a buffer": (lambda n, a, b: a.index_select(1, n.order) + b, 12),
    "channel shuffle": (lambda n, a, b: F.channel_shuffle(a, 3) + b, 12),
    "pixel shuffle": (lambda n, a, b: F.pixel_shuffle(a + b, 2), 3),
    "pixel unshuffle": (lambda n, a, b: F.pixel_unshuffle(a, 2), 48),
    "unfold": (lambda n, a, b: F.unfold(a, 2, stride=2).unflatten(2, (4, 4)), 48),
    "pad": (lambda n, a, b: F.pad(a, (1, 2, 0, 1)) + F.pad(b, (1, 2, 0, 1), mode="reflect"), 12),
    "stack": (lambda n, a, b: torch.stack([a, b], 4).amax(4), 12),
    "expand": (lambda n, a, b: a.mean((2, 3), keepdim=True).expand(-1, -1, 8, 8) * b, 12),
    "unequal slices": (lambda n, a, b: torch.cat([a[:, :5], b[:, 5:]], 1), 12),
    "every other channel": (lambda n, a, b: a[:, ::2] + b[:, 1::2], 6),
    "overwrite positions": (overwrite_positions, 12),
    "unfold windows": (lambda n, a, b: a.unfold(2, 4, 4).sum(4), 12),
    "rot90": (lambda n, a, b: a.rot90(1, (2, 3)) + b, 12),
    "steps in memory": (
        lambda n, a, b: a.permute(0, 2, 3, 1).contiguous().as_strided((1, 12, 8, 8), (768, 1, 96, 12)),
        12,
    ),
    "rows by index": (gather_rows, 12),
    "diagonal": (lambda n, a, b: a.diagonal(dim1=2, dim2=3)[..., None] + b, 12),
}


# Code that takes equal parts of a dimension: all of them lose the same channels, so that they stay equally long.
IN_PARTS: dict[str, tuple[Between, int, dict[str, int]]] = {
    "slices": (lambda n, a, b: torch.cat([a[:, 6:] + b[:, :6], a[:, :6] + b[:, :6]], 1), 12, {"a": 6, "b": 6}),
    "slices from the end": (lambda n, a, b: a[:, -4:] + b[:, -8:-4], 4, {"a": 4, "b": 4}),
    "chunks": (lambda n, a, b: torch.cat([b, *a.chunk(3, 1)[::-1]], 1), 24, {"a": 4}),
    "glu": (lambda n, a, b: F.glu(a, 1), 6, {"a": 6}),
    "split": (lambda n, a, b: sum(b.split(6, 1)), 6, {"b": 6}),
    "unbind": (lambda n, a, b: torch.stack(b.unflatten(1, (6, 2)).unbind(2)).sum(0), 6, {}),
    "add through a view": (add_through_view, 12, {"a": 6, "b": 6}),
}
SIDES = {("a", "out"), ("b", "out"), ("z", "in")}


@pytest.mark.parametrize("name", MOVES)
def test_labels_go_where_the_data_goes(name: str) -> None:
    """A set of channels that change together is removed together."""
    between, channels = MOVES[name]
    network = two_producers(between, channels)
    expected = changed_units(network, IMAGES, ["a", "b"], "z")
    assert units_among(traced_units(network, IMAGES), SIDES) == expected


@pytest.mark.parametrize("name", IN_PARTS)
def test_equal_parts_lose_the_same_channels(name: str) -> None:
    between, channels, parts = IN_PARTS[name]
    network = two_producers(between, channels)
    expected = changed_units(network, IMAGES, ["a", "b"], "z", parts)
    assert units_among(traced_units(network, IMAGES), SIDES) == expected


def test_stacked_tensors_stay_equally_wide() -> None:
    network = two_producers(lambda n, a, b: torch.stack([a, b], 1).flatten(1, 2), 24)
    expected = {
        frozenset({("a", "out", c), ("b", "out", c), ("z", "in", c), ("z", "in", 12 + c)}) for c in range(12)
    }  # fmt: skip
    assert units_among(traced_units(network, IMAGES), SIDES) == expected


def test_what_is_written_is_cut_like_the_places_that_it_is_written_to() -> None:
    """Though nothing is left of the first channels of `a`: they are the places for those of `b`, and equally many."""
    expected = {frozenset((name, "out", c + 4 * part) for name in "ab" for part in range(3)) for c in range(4)}
    for between in (overwrite, lambda n, a, b: overwrite(n, torch.zeros_like(a), b) + torch.zeros_like(b)):
        units = units_among(traced_units(two_producers(between), IMAGES), {("a", "out"), ("b", "out")})
        assert units == expected

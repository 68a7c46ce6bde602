"""Stratified parts, against Hamilton's method in exact fractions."""

from fractions import Fraction

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.splits import stratified_sample, stratified_split


def largest_remainder(sizes: list[int], count: int) -> list[int]:
    """Hamilton's method in exact fractions."""
    exact = [Fraction(size * count, sum(sizes)) for size in sizes]
    quota = [int(share) for share in exact]
    order = sorted(range(len(sizes)), key=lambda i: (-(exact[i] - quota[i]), i))
    for i in order[: count - sum(quota)]:
        quota[i] += 1
    return quota


@settings(max_examples=60)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.floats(0.01, 0.99), st.integers(0, 5))
def test_split_shares_exactly(sizes: list[int], fraction: float, seed: int) -> None:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    rest, held = stratified_split(labels, fraction, seed)
    assert sorted(torch.cat([rest, held]).tolist()) == list(range(len(labels)))
    assert torch.bincount(labels[held], minlength=len(sizes)).tolist() == largest_remainder(
        sizes, round(fraction * len(labels))
    )


def test_split_follows_its_seed() -> None:
    labels = torch.arange(10).repeat(50)
    one, again, other = (stratified_split(labels, 0.2, seed)[1] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_sample_of_everything_is_everything() -> None:
    labels = torch.tensor([0, 2, 2, 1])
    assert stratified_sample(labels, 4, 0).tolist() == [0, 1, 2, 3]
    assert stratified_sample(labels, 0, 0).tolist() == []

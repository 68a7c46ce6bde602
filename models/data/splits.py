"""Stratified parts of labelled images: every class in its proportion, drawn by a seed."""

from __future__ import annotations

import torch
from torch import Tensor


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Positions of (the rest, the held-out part), each ascending.

    `round(fraction · n)` images are held out, each class in its proportion.
    """
    held = stratified_sample(labels, round(fraction * len(labels)), seed)
    mask = torch.ones(len(labels), dtype=torch.bool)
    mask[held] = False
    return mask.nonzero().flatten(), held


def stratified_sample(labels: Tensor, count: int, seed: int) -> Tensor:
    """Ascending positions of `count` images, each class in its proportion (largest remainder)."""
    present, sizes = torch.unique(labels, return_counts=True)
    exact = sizes.double() * count / max(len(labels), 1)
    quota = exact.floor().long()
    # Remainders rounded, so that equal ones stay equal and ties go to the lower class.
    by_remainder = torch.argsort((exact - quota).mul(1e9).round(), descending=True, stable=True)
    quota[by_remainder[: count - int(quota.sum())]] += 1
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label, size, take in zip(present, sizes, quota, strict=True):
        members = (labels == label).nonzero().flatten()
        chosen.append(members[torch.randperm(int(size), generator=generator)[: int(take)]])
    return torch.cat(chosen).sort().values if chosen else torch.empty(0, dtype=torch.long)

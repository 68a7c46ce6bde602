"""Shares of the FLOPs that stay dense, against counts by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from methods.dense_shares import DenseShare, dense_shares
from methods.registry import create


class Middle(nn.Module):
    """Of `second`, the median over channels is taken; `first` is free; `third` has one output channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)  # 3 * 8 * 36 = 864
        self.second = nn.Conv2d(8, 4, 3, padding=1)  # 8 * 4 * 9 * 36 = 10,368
        self.third = nn.Conv2d(1, 1, 1)  # 36
        self.head = nn.Linear(36, 2)  # 72

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return torch.as_tensor(self.head(self.third(x.median(1, keepdim=True)[0]).flatten(1)))


def test_layers_are_gathered_by_reason_the_largest_share_first() -> None:
    compressor = create("l1", Middle(), torch.randn(2, 3, 6, 6))
    shares = dense_shares(compressor, compressor.skipped)
    total = 864 + 10_368 + 36 + 72
    assert [(share.layers, share.share) for share in shares] == [
        (("second",), pytest.approx(10_368 / total)),
        (("head",), pytest.approx(72 / total)),
        (("third",), pytest.approx(36 / total)),
    ]
    line = next(n for n, words in enumerate(Path(__file__).read_text().splitlines(), 1) if "x.median" in words)
    assert [share.reason for share in shares] == [
        f"median over channels in the network (test_dense_shares.py:{line})",
        "it is an output of the network",
        "it has one output channel",
    ]


def test_a_site_that_a_constraint_keeps_dense_counts_with_its_layers() -> None:
    compressor = create("l1", Middle(), torch.randn(2, 3, 6, 6))
    shares = dense_shares(compressor, compressor.skipped | {"first": "left dense by keep_dense"})
    assert DenseShare("left dense by keep_dense", ("first",), pytest.approx(864 / 11_340)) in shares

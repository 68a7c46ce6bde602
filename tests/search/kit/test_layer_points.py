"""Kinds of layers in kits: what they cost, and where their grids begin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from device_samples import chain_method
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from search.kit.layer_points import LayerKind, layer_kinds
from search.latency.widths import checked_widths, least_widths

LAYERS = [
    (nn.Linear(768, 10), [(1, 197, 768)]),
    (nn.Linear(12, 7), [(1, 12), (5, 12), (2, 3, 12)]),
    (nn.Conv2d(8, 6, 3, padding=1), [(1, 8, 5, 4), (3, 8, 7, 7)]),
    (nn.Conv2d(8, 16, 3, padding=1, groups=8), [(1, 8, 5, 4)]),
    (nn.Conv2d(8, 16, 3, padding=1, groups=4), [(1, 8, 5, 4)]),
]


@pytest.mark.parametrize(("layer", "shapes"), LAYERS, ids=str)
def test_flops_of_all_calls_are_those_of_torch(layer: nn.Module, shapes: list[tuple[int, ...]]) -> None:
    with FlopCounterMode(display=False) as counter:
        for shape in shapes:
            layer(torch.zeros(shape))
    kind = LayerKind(layer, shapes, (1, 1), count=3)
    assert kind.flops == 3 * counter.get_total_flops() // 2


def test_grids_begin_at_the_smallest_width_of_any_allocation() -> None:
    compressor = chain_method()
    cost = checked_widths(compressor)
    last = np.array([len(site.settings) - 1 for site in compressor.sites])
    first, second, third = (min(site.widths) for site in compressor.sites)
    expected = [(3, first), (first, second), (second, third), (third, 10)]
    assert least_widths(cost, last) == expected
    assert [kind.least for kind in layer_kinds([(compressor, cost)]).values()] == expected

"""What KSE's layers cost, on the whole network and on any that another method has narrowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from methods.base import Cost, Costs, Levels
from methods.graph.removal import ChannelRemoval, ChannelTally, Ints, count_left
from methods.kse.kse_indicator import grades
from methods.tables.bitpack import bits_for


def weight_cost(counts: Ints, kernels: int, area: int, positions: int) -> Cost:
    """One layer's weight with `counts` distinct kernels of `area` = Kh·Kw weights; `kernels` = N / groups."""
    distinct = int(counts.sum())
    index_bits = sum(kernels * bits_for(int(q)) for q in counts if 0 < q < kernels)
    return Cost(distinct * area * positions, distinct * area, 4 * distinct * area + -(-index_bits // 8))


@dataclass(frozen=True)
class Graded:
    """A convolution whose channels may go, graded by the indicators that they had when all were there."""

    inputs: ChannelRemoval
    outputs: ChannelRemoval
    indicator: npt.NDArray[np.float64]  # (C,)
    pairs: Sequence[tuple[int, int]]  # (G, T) of its settings from the first that is not dense
    groups: int
    area: int  # Kh·Kw
    positions: int


class GradedChange:
    """What the settings take off: a `Change`.

    How many channels of each grade are left is looked up; from grade and filters left follow the kernels of each
    channel, and from these everything else, for all layers at once.
    """

    def __init__(self, layers: Sequence[Graded]) -> None:
        granularities = sorted({G for layer in layers for G, _ in layer.pairs})
        top = granularities[-1]
        self._grades = ChannelTally([layer.inputs for layer in layers],
                             [_one_hot(layer.indicator, granularities, top) for layer in layers])  # fmt: skip
        self._outputs = count_left([layer.outputs for layer in layers])
        self._groups, self._area, self._positions = (
            np.array([getattr(layer, figure) for layer in layers]) for figure in ("groups", "area", "positions")
        )
        longest = 1 + max(len(layer.pairs) for layer in layers)
        self._variant = np.zeros((len(layers), longest), dtype=np.intp)
        # Each grade's kernels are divided by these; infinity stands for dropped channels.
        self._divisor = np.full((len(layers), longest, top + 1), np.inf)
        for row, layer in enumerate(layers):
            for level, (G, T) in enumerate(layer.pairs, start=1):
                self._variant[row, level] = granularities.index(G)
                self._divisor[row, level, 1:G] = 2.0 ** (G - np.arange(1, G) + T)
                self._divisor[row, level, G] = 1
        most = max(len(layer.outputs.site) // layer.groups for layer in layers)
        self._bits = np.array([0, *(bits_for(count) for count in range(1, most + 1))])
        self._layers = np.arange(len(layers))

    def __call__(self, first: Levels, own: Levels) -> Costs:
        left = self._grades(first, self._variant[self._layers, own])  # (A, L, grades)
        kernels = self._outputs(first)[..., 0] // self._groups  # (A, L): of every channel
        each = np.ceil(kernels[..., None] / self._divisor[self._layers, own]).astype(np.int64)  # q of a grade
        tables = np.where((each > 0) & (each < kernels[..., None]), left * self._bits[each], 0).sum(2) * kernels
        distinct, dense = (left * each).sum(2), left.sum(2) * kernels
        distinct = np.where(distinct == 0, kernels, distinct)  # one channel stays
        compressed = own > 0
        saved = np.where(compressed, dense - distinct, 0) * self._area
        index = np.where(compressed, -(-tables // 8), 0)
        params = -saved.sum(1)
        return Costs(-(saved * self._positions).sum(1), params, 4 * params + index.sum(1))


def _one_hot(v: npt.NDArray[np.float64], granularities: Sequence[int], top: int) -> Ints:
    """(granularities, C, 1 + top): 1 where a channel has that grade."""
    return np.stack([np.eye(top + 1, dtype=np.int64)[grades(v, G)] for G in granularities])

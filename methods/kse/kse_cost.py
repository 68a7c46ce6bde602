"""The cost of KSE's layers, on the dense network and on any that a first method has narrowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from methods.base import Cost, Costs, Levels
from methods.graph.removal import ChannelRemoval, ChannelTally, Ints, count_remaining
from methods.kse.kse_indicator import channel_grades
from methods.tables.bitpack import bits_for


def weight_cost(counts: Ints, kernels: int, area: int, positions: int) -> Cost:
    """The cost of a layer's weight: `counts` (C,) distinct kernels of K weights, the `area`; `kernels` = N / groups."""
    distinct = int(counts.sum())
    index_bits = sum(kernels * bits_for(int(q)) for q in counts if 0 < q < kernels)
    return Cost(distinct * area * positions, distinct * area, 4 * distinct * area + -(-index_bits // 8))


@dataclass(frozen=True)
class GradedLayer:
    """A convolution whose channels may be removed, graded by the indicators of the dense network."""

    inputs: ChannelRemoval
    outputs: ChannelRemoval
    indicator: npt.NDArray[np.float64]  # (C,)
    pairs: Sequence[tuple[int, int]]  # (G, T) of its settings from the first that is not dense
    groups: int
    area: int  # K


class GradedChange:
    """The change of cost by the settings: a `Change`.

    The number of remaining channels of each grade is looked up. A grade and the number of remaining filters give the
    distinct kernels of its channels, and these give all figures, for all layers at once.
    """

    def __init__(self, layers: Sequence[GradedLayer], positions: Callable[[Levels], Ints]) -> None:
        """`positions`: levels of the first method -> the positions of each layer, (n_allocations, n_layers)."""
        self._positions = positions
        granularities = sorted({G for layer in layers for G, _ in layer.pairs})
        top = granularities[-1]
        self._grade_tally = ChannelTally(
            [layer.inputs for layer in layers],
            [_one_hot(layer.indicator, granularities, top) for layer in layers],
        )
        self._outputs = count_remaining([layer.outputs for layer in layers])
        self._groups, self._area = (
            np.array([getattr(layer, figure) for layer in layers]) for figure in ("groups", "area")
        )
        longest = 1 + max(len(layer.pairs) for layer in layers)
        self._variant = np.zeros((len(layers), longest), dtype=np.intp)
        # The divisor of the number of kernels, for each grade; infinity for dropped channels.
        self._divisor = np.full((len(layers), longest, top + 1), np.inf)
        for i, layer in enumerate(layers):
            for level, (G, T) in enumerate(layer.pairs, start=1):
                self._variant[i, level] = granularities.index(G)
                self._divisor[i, level, 1:G] = 2.0 ** (G - np.arange(1, G) + T)
                self._divisor[i, level, G] = 1
        widest = max(len(layer.outputs.site) // layer.groups for layer in layers)
        self._bits = np.array([0, *(bits_for(count) for count in range(1, widest + 1))])
        self._layers = np.arange(len(layers))

    def __call__(self, first: Levels, second: Levels) -> Costs:
        remaining = self._grade_tally(first, self._variant[self._layers, second])  # (A, L, grades)
        kernels = self._outputs(first)[..., 0] // self._groups  # (A, L): of every channel
        # (A, L, grades): the distinct kernels of a channel of each grade.
        q = np.ceil(kernels[..., None] / self._divisor[self._layers, second]).astype(np.int64)
        tables = np.where((q > 0) & (q < kernels[..., None]), remaining * self._bits[q], 0).sum(2) * kernels
        distinct, dense = (remaining * q).sum(2), remaining.sum(2) * kernels
        distinct = np.where(distinct == 0, kernels, distinct)  # where all channels would be dropped, one stays
        compressed = second > 0
        saved = np.where(compressed, dense - distinct, 0) * self._area
        index = np.where(compressed, -(-tables // 8), 0)
        params = -saved.sum(1)
        return Costs(-(saved * self._positions(first)).sum(1), params, 4 * params + index.sum(1))


def _one_hot(v: npt.NDArray[np.float64], granularities: Sequence[int], top: int) -> Ints:
    """(granularities, C, 1 + top): 1 at the grade of each channel."""
    return np.stack([np.eye(top + 1, dtype=np.int64)[channel_grades(v, G)] for G in granularities])

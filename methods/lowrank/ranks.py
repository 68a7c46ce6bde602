"""Ranks that a layer can be given: what they cost, and the ladder of those that no other pair beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

Ints = npt.NDArray[np.int64]
_SETTINGS = 64  # of a layer; a step is then some 2 % of the layer
_EQUAL = 1e-9  # damages, as shares of the layer's, that differ by less are rounding


class Ranks(NamedTuple):
    """The channels that a layer's core reads and writes; full ones need no projection."""

    inputs: int
    outputs: int


@dataclass(frozen=True)
class LayerShape:
    """The widths of a plain layer, and for one input the positions at which its inputs, core and outputs lie."""

    channels: int  # C
    outputs: int  # N
    taps: int  # K
    in_positions: int
    core_positions: int
    out_positions: int

    def narrowed(self, channels: int, outputs: int) -> LayerShape:
        return replace(self, channels=channels, outputs=outputs)

    def fitting_ranks(self, ranks: Ranks) -> Ranks | None:
        """The ranks within these widths; None where the layer as it is takes no more FLOPs."""
        fitting = Ranks(min(ranks.inputs, self.channels), min(ranks.outputs, self.outputs))
        plain = self.core_positions * self.taps * self.channels * self.outputs
        return fitting if int(self.weight_costs(*fitting)[0]) < plain else None

    def weight_costs(self, in_ranks: int | Ints, out_ranks: int | Ints) -> tuple[Ints, Ints]:
        """FLOPs and parameters of the factors of one or of many pairs of ranks, biases left out."""
        return factored_costs(
            np.asarray(self.channels),
            np.asarray(self.outputs),
            np.asarray(in_ranks),
            np.asarray(out_ranks),
            self.taps,
            (np.asarray(self.in_positions), np.asarray(self.core_positions), np.asarray(self.out_positions)),
        )


def factored_costs(
    channels: Ints, outputs: Ints, in_ranks: Ints, out_ranks: Ints, taps: int | Ints, positions: tuple[Ints, Ints, Ints]
) -> tuple[Ints, Ints]:
    """FLOPs and parameters; all arguments broadcast. `positions`: those of inputs, core and outputs."""
    projection = np.where(in_ranks < channels, channels * in_ranks, 0)
    core = taps * in_ranks * out_ranks
    expansion = np.where(out_ranks < outputs, out_ranks * outputs, 0)
    flops = positions[0] * projection + positions[1] * core + positions[2] * expansion
    return flops.astype(np.int64), (projection + core + expansion).astype(np.int64)


def ranks_up_to(width: int, multiple: int) -> list[int]:
    """The ranks that a layer of this width is offered, rising: multiples, below them halvings, and the width itself.

    Processors take channels in blocks, so that a rank between two multiples takes the time of the higher one. Halvings
    are for layers that are no wider than a block, and for small targets. The width itself needs no projection.
    """
    halvings = [multiple >> halved for halved in range(1, multiple.bit_length())]
    return [*(rank for rank in (*reversed(halvings), *range(multiple, width, multiple)) if rank < width), width]


def undominated_ranks(
    shape: LayerShape, in_ranks: Sequence[int], damages: Tensor, out_ranks: Sequence[int]
) -> list[tuple[Ranks, float]]:
    """The pairs that no other beats in FLOPs and damage, the dearest first, each with its damage; at most 64.

    Args:
        damages: (len(in_ranks), N), entry [i, r − 1] for in_ranks[i] and r output directions.
        out_ranks: those that may be taken.
    """
    inner, outer = (grid.ravel() for grid in np.meshgrid(in_ranks, out_ranks, indexing="ij"))
    damage = damages.numpy()[:, np.asarray(out_ranks) - 1].ravel()
    flops, params = shape.weight_costs(inner, outer)
    dense_flops, dense_params = shape.weight_costs(shape.channels, shape.outputs)
    step = _EQUAL * max(float(damage.max()), 1e-30)
    order = np.lexsort((params, damage, flops))
    order = order[(flops[order] < dense_flops) & (params[order] < dense_params)]
    chosen: list[int] = []
    for index in order:
        if not chosen or damage[index] < damage[chosen[-1]] - step:
            chosen.append(int(index))
    chosen.reverse()
    spaced = np.unique(np.linspace(0, len(chosen) - 1, min(len(chosen), _SETTINGS)).round().astype(int))
    return [(Ranks(int(inner[chosen[i]]), int(outer[chosen[i]])), float(damage[chosen[i]])) for i in spaced]

"""The change of cost by ranks on any network that a first method has narrowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from methods.base import Costs, Levels
from methods.graph.removal import ChannelRemoval, Ints, count_remaining
from methods.lowrank.ranks import LayerShape, Ranks, factored_costs


@dataclass(frozen=True)
class RankedLayer:
    """A layer whose channels may be removed, with the ranks of its settings from the first that is not dense."""

    inputs: ChannelRemoval
    outputs: ChannelRemoval
    shape: LayerShape
    ranks: Sequence[Ranks]


class RanksChange:
    """The change of cost by the settings: a `Change`. Ranks are cut to the widths that are left."""

    def __init__(self, layers: Sequence[RankedLayer], positions: Sequence[Callable[[Levels], Ints]]) -> None:
        """`positions`: of inputs, cores and outputs: levels of the first method -> (n_allocations, n_layers)."""
        self._positions = positions
        self._inputs = count_remaining([layer.inputs for layer in layers])
        self._outputs = count_remaining([layer.outputs for layer in layers])
        self._taps = np.array([layer.shape.taps for layer in layers])
        shapes = [layer.shape for layer in layers]
        self._dense_positions = [
            np.array([getattr(shape, part) for shape in shapes])
            for part in ("in_positions", "core_positions", "out_positions")
        ]
        longest = 1 + max(len(layer.ranks) for layer in layers)
        self._ranks = np.zeros((len(layers), longest, 2), dtype=np.int64)
        for table, layer in zip(self._ranks, layers, strict=True):
            table[0] = layer.shape.channels, layer.shape.outputs
            table[1 : 1 + len(layer.ranks)] = layer.ranks
        self._layers = np.arange(len(layers))

    def __call__(self, first: Levels, second: Levels) -> Costs:
        channels, outputs = self._inputs(first)[..., 0], self._outputs(first)[..., 0]  # (A, L)
        in_ranks, out_ranks = np.moveaxis(self._ranks[self._layers, second], -1, 0)
        in_ranks, out_ranks = np.minimum(in_ranks, channels), np.minimum(out_ranks, outputs)

        def costs_at(positions: Sequence[Ints]) -> tuple[Ints, Ints, Ints, Ints]:
            where = positions[0], positions[1], positions[2]
            factored = factored_costs(channels, outputs, in_ranks, out_ranks, self._taps, where)
            return *factored, *factored_costs(channels, outputs, channels, outputs, self._taps, where)

        # Whether a layer is taken apart is decided at the dense network's positions (`LayerShape.fitting_ranks`).
        factored, _, plain, _ = costs_at(self._dense_positions)
        apart = (second > 0) & (factored < plain)
        flops, params, plain_flops, plain_params = costs_at([at(first) for at in self._positions])
        saved = np.where(apart, params - plain_params, 0).sum(1)
        return Costs(np.where(apart, flops - plain_flops, 0).sum(1), saved, 4 * saved)

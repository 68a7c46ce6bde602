"""The widths of factored layers at every setting of a network's sites: what predictions of latency are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from torch import nn

from methods.base import Cost, Levels
from methods.graph.narrow import is_depthwise, replace_module
from methods.lowrank.factored_layer import CORE, INPUTS, OUTPUTS, surround_layer
from methods.lowrank.ranks import LayerShape, Ranks
from methods.tables.table_cost import TableCost
from models.execution.module_copies import copy_on_write

Floats = npt.NDArray[np.float64]


class RankedCost(TableCost):
    """Costs of independent sites, and the widths of their layers (`search/latency`).

    Attributes:
        network: the dense one, with its sites' layers between projections of full rank.
        layers: names of the layers there, the sites' first: all projections, all cores, all expansions.
        ladders: per site, the output rank of each of its levels.
    """

    def __init__(
        self,
        rest: Cost,
        tables: Sequence[Sequence[Cost]],
        network: nn.Module,
        shapes: Mapping[str, LayerShape],
        ranks: Mapping[str, Sequence[Ranks]],
    ) -> None:
        """
        Args:
            shapes: of all layers of the network that are called.
            ranks: site -> those of every setting, full ones first; in the order of `tables`.
        """
        super().__init__(rest, tables)
        self._dense_network, self._names = network, list(ranks)
        self.ladders = [np.array([pair.outputs for pair in pairs], dtype=np.float64) for pairs in ranks.values()]
        self._ranks = np.zeros((len(ranks), max(map(len, ranks.values()), default=1), 2))
        for table, pairs in zip(self._ranks, ranks.values(), strict=True):
            table[: len(pairs)] = pairs
        factored = [shapes[name] for name in ranks]
        self._channels, self._outputs, self._in_positions, self._out_positions = (
            np.array([getattr(shape, figure) for shape in factored], dtype=np.float64)
            for figure in ("channels", "outputs", "in_positions", "out_positions")
        )
        others = {name: shape for name, shape in shapes.items() if name not in ranks}
        self.layers = (*(f"{name}.{part}" for part in (INPUTS, CORE, OUTPUTS) for name in ranks), *others)
        self._other_inputs = [1 if is_depthwise(network.get_submodule(name)) else shape.channels
                              for name, shape in others.items()]  # fmt: skip
        self._other_outputs = [shape.outputs for shape in others.values()]
        self._other_written = sum(shape.out_positions * shape.outputs for shape in others.values())

    @property
    def network(self) -> nn.Module:
        twin = copy_on_write(self._dense_network)
        for name in self._names:
            replace_module(twin, name, surround_layer(twin.get_submodule(name)))
        return twin

    def layer_widths(self, levels: Levels) -> tuple[Floats, Floats]:
        """Channels into and out of every layer, each (n_allocations, n_layers); absent ones have full widths."""
        in_ranks, out_ranks = self._ranks_at(levels)
        channels, outputs = (np.broadcast_to(widths, in_ranks.shape) for widths in (self._channels, self._outputs))
        fixed = [np.broadcast_to(np.array(widths, dtype=np.float64), (len(levels), len(widths)))
                 for widths in (self._other_inputs, self._other_outputs)]  # fmt: skip
        return (
            np.concatenate([channels, in_ranks, out_ranks, fixed[0]], axis=1),
            np.concatenate([in_ranks, out_ranks, outputs, fixed[1]], axis=1),
        )

    def position_shares(self, levels: Levels) -> Floats:
        """1 for a layer that is there, 0 for a projection that full ranks do without; (n_allocations, n_layers)."""
        in_ranks, out_ranks = self._ranks_at(levels)
        projected, expanded = (in_ranks < self._channels).astype(float), (out_ranks < self._outputs).astype(float)
        fixed = np.ones((len(levels), len(self._other_inputs)))
        return np.concatenate([projected, np.ones_like(projected), expanded, fixed], axis=1)

    def written_elements(self, levels: Levels) -> Floats:
        """The activations that all layers write, (n_allocations,)."""
        in_ranks, out_ranks = self._ranks_at(levels)
        projected = self._in_positions * in_ranks * (in_ranks < self._channels)
        expanded = self._out_positions * self._outputs * (out_ranks < self._outputs)
        written: Floats = (projected + self._out_positions * out_ranks + expanded).sum(1) + self._other_written
        return written

    def _ranks_at(self, levels: Levels) -> tuple[Floats, Floats]:
        """Ranks of inputs and outputs, each (n_allocations, n_sites)."""
        in_ranks, out_ranks = np.moveaxis(self._ranks[np.arange(len(self._ranks)), np.asarray(levels)], -1, 0)
        return in_ranks, out_ranks

"""Which channels belong together, found by changing them one by one: a second answer to what labels say.

Channel c of a producer and input i of a reader belong together if i changes when c does. This holds for everything that
treats channels apart (movement of data, element-wise operators, pooling), and only next to a producer.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from methods.graph.flow.find import trace_groups
from methods.graph.trace import trace_layers
from models.execution.forward_hooks import forward_hooks
from models.execution.inputs import Inputs

Channel = tuple[str, str, int]
"""Module, side, index."""


def traced_units(network: nn.Module, example: Tensor) -> set[frozenset[Channel]]:
    """What the flow says: the channels of modules that can only be removed together, one set for each choice."""
    groups = trace_groups(network, Inputs.of(example), trace_layers(network, example)).groups
    units = set()
    for group in groups:
        for channel in range(group.channels):
            unit = [
                (s.name, s.side, i)
                for s in group.slots
                if s.dim is None
                for i in s.index[s.channel == channel].tolist()
            ]
            units.add(frozenset(unit))
    return units


def units_among(units: set[frozenset[Channel]], sides: set[tuple[str, str]]) -> set[frozenset[Channel]]:
    """The units without the channels of other modules and sides."""
    narrowed = {frozenset(channel for channel in unit if channel[:2] in sides) for unit in units}
    return narrowed - {frozenset()}


def changed_units(
    network: nn.Module, example: Tensor, producers: list[str], reader: str, parts: Mapping[str, int] | None = None
) -> set[frozenset[Channel]]:
    """The connected sets of the producers' channels and the inputs of the reader that they change.

    Args:
        parts: producers whose channels are sliced in equal parts of this length, which lose the same channels.
    """
    dense = _inputs_of(network, example, reader)
    channels: list[Channel] = [(reader, "in", i) for i in range(dense.shape[1])]
    pairs = []
    for producer in producers:
        for index in range(network.get_submodule(producer).weight.shape[0]):
            changed = _inputs_of(network, example, reader, (producer, index))
            inputs = (changed != dense).flatten(2).any(2).any(0).nonzero().flatten().tolist()
            pairs += [(len(channels), i) for i in inputs]
            channels.append((producer, "out", index))
    number_of = {channel: number for number, channel in enumerate(channels)}
    for producer, length in (parts or {}).items():
        width = network.get_submodule(producer).weight.shape[0]
        pairs += [(number_of[producer, "out", i], number_of[producer, "out", i % length]) for i in range(width)]
    left, right = zip(*pairs, strict=True)
    graph = coo_matrix(([True] * len(pairs), (left, right)), shape=(len(channels), len(channels)))
    component = connected_components(graph, directed=False)[1]
    units = {frozenset(c for c, k in zip(channels, component, strict=True) if k == number) for number in set(component)}
    return {unit for unit in units if any(side == "out" for _, side, _ in unit)}


@torch.no_grad()
def _inputs_of(network: nn.Module, example: Tensor, reader: str, changed: tuple[str, int] | None = None) -> Tensor:
    """The first input of a module, channels second, while one channel of a producer has other values."""
    seen: list[Tensor] = []

    def change_channel(module: nn.Module, _inputs: object, output: Tensor) -> Tensor | None:
        if changed is None or module is not network.get_submodule(changed[0]):
            return None
        dim = -1 if isinstance(module, nn.Linear) else 1
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
        there = torch.zeros(output.shape[dim]).index_fill(0, torch.tensor([changed[1]]), 1.0)
        return output + noise * there.reshape([-1 if d == dim % output.dim() else 1 for d in range(output.dim())])

    producers = [module for module in network.modules() if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))]
    note = (network.get_submodule(reader), lambda _module, inputs: seen.append(inputs[0]))
    with forward_hooks(before=[note], after=[(module, change_channel) for module in producers]):
        network(example)
    is_linear = isinstance(network.get_submodule(reader), nn.Linear)
    return seen[0].movedim(-1, 1) if is_linear else seen[0]

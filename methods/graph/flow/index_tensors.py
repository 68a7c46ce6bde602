"""Tensors of indices that a network holds (`x[:, self.order]`, a channel shuffle as a buffer), and their rewriting.

An entry of such a tensor goes with the channel that it picks. Those that remain name channels of the dense network;
in a narrowed one, each has to name the place that its channel has among the remaining ones.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from methods.graph.flow.call_readers import Extent
from methods.graph.flow.labels import NEW, Dimension


@dataclass(frozen=True)
class Pick:
    """One use of indices.

    Attributes:
        indices: the labels of their tensor's entries, (n,).
        source: the dimension in which they pick.
    """

    indices: Tensor
    source: Extent


@dataclass(frozen=True)
class IndexTensor:
    """A tensor of a module that holds indices.

    Attributes:
        units: of each index of the dimension in which it picks (`CallNumber.units`).
    """

    name: str
    units: Tensor

    def rewrite(self, network: nn.Module, stays: Tensor) -> None:
        """Name places among the units that stay, in place; `stays` (number of units + 1,)."""
        owner, _, leaf = self.name.rpartition(".")
        module = network.get_submodule(owner)
        indices: Tensor = getattr(module, leaf)
        remains = stays[self.units].any(-1)
        places = (remains.cumsum(0) - 1).to(indices.device, indices.dtype)
        width = len(remains)
        setattr(module, leaf, places[(indices.long() + width) % width])


def index_tensors(
    picks: Iterable[Pick], dimensions: Sequence[Dimension], units_along: Callable[[Extent], Tensor | None]
) -> Iterator[IndexTensor]:
    """The tensors that pick among channels which may go, each by its first use."""
    firsts = [dimension.first for dimension in dimensions]
    named: set[str] = set()
    for pick in picks:
        labels = pick.indices[pick.indices > 0]
        dimension = dimensions[bisect_right(firsts, int(labels[0])) - 1] if len(labels) else None
        if dimension is None or dimension.dim == NEW or dimension.name in named:
            continue
        if (units := units_along(pick.source)) is not None:
            named.add(dimension.name)
            yield IndexTensor(dimension.name, units)

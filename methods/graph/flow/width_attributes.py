"""Widths that modules hold as plain integers, and compare with what they are given.

`if x.shape[1] != self.channels: raise ValueError` meets no operator, so that no number of a call can be replaced, nor
does `assert channels % self.groups == 0` before a view by groups. The attribute is written anew instead, but only where
a narrowed network has raised in that very module: elsewhere an attribute of this size may be anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from methods.graph.flow.call_readers import Extent
from methods.graph.flow.labels import varying_dims
from methods.graph.flow.planes import Value


@dataclass(frozen=True)
class WidthAttribute:
    """An attribute of a module that equals a width of something that the module takes in, makes or returns.

    Attributes:
        units: of each index along that width (`CallNumber.units`).
    """

    module: str
    name: str
    dense: int
    units: Tensor

    def count_staying(self, stays: Tensor) -> int:
        """The attribute where only some units stay; `stays` (number of units + 1,)."""
        return int(stays[self.units].any(-1).sum())


class AttributeRecorder:
    """Notes the integers of modules that equal labelled widths, of the first pass that shows one."""

    def __init__(self, network: nn.Module, value_of: Callable[[Tensor], Value]) -> None:
        self._value_of = value_of
        self._integers = {name: _own_integers(module) for name, module in network.named_modules()}
        self._noted: dict[tuple[str, str], Extent] = {}

    def note_tensors(self, name: str, tensors: Iterable[Tensor]) -> None:
        """What a module of the user's own takes in or returns, or one of its calls does."""
        integers = self._integers.get(name)
        if not integers:
            return
        for tensor in tensors:
            for plane in (value := self._value_of(tensor)).planes:
                for dim in varying_dims(plane):
                    for key, number in integers.items():
                        if number == tensor.shape[dim]:
                            self._noted.setdefault((name, key), Extent(value, dim, number))

    def attributes(self, units_along: Callable[[Extent], Tensor | None]) -> Iterator[WidthAttribute]:
        """Those whose width some units decide."""
        for (module, name), extent in self._noted.items():
            if (units := units_along(extent)) is not None:
                yield WidthAttribute(module, name, extent.length, units)


def _own_integers(module: nn.Module) -> dict[str, int]:
    """Attribute -> its value; of torch's own modules none."""
    if type(module).__module__.startswith("torch.nn."):
        return {}
    return {key: value for key, value in vars(module).items() if type(value) is int and value > 1}

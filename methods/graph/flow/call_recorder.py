"""The numbers in the calls of a network's code, recorded while labels of channels flow, and what each counts.

A number is a width if the labels of channels vary along the dimension that it is the size of. Factors that the code
computes from widths (`dim ** -0.5`) stay what they are in the dense network.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from methods.graph.call_arguments import Number, Path
from methods.graph.call_sites import CallSite, Instructions, find_call_site
from methods.graph.flow.call_numbers import ALWAYS, CallNumber
from methods.graph.flow.call_readers import Extent, TracedCall, read_number
from methods.graph.flow.labels import varying_dims
from methods.graph.flow.operators import FACTORIES
from methods.graph.flow.planes import Value
from models.execution.tensor_leaves import tensor_leaves


@dataclass(frozen=True)
class _RecordedCall:
    module: str
    site: CallSite
    count: int
    order: int
    training: bool
    operand: tuple[Extent, ...]
    """The channels of its first tensor, one entry for every dimension along which they vary."""
    makes_tensor: bool
    """Whether the result holds nothing that the call was given (`torch.zeros`)."""

    @property
    def place(self) -> tuple[str, CallSite]:
        return self.module, self.site


class CallRecorder(TorchFunctionMode):
    """While this mode is on, the numbers in calls are noted, with the labels of what they count.

    Args:
        path: the names of the modules that run, the innermost last.
        value_of: what is known of a tensor.
        note_result: is told the module and the tensors that a call with numbers has returned.
    """

    def __init__(
        self,
        path: Sequence[str],
        value_of: Callable[[Tensor], Value],
        note_result: Callable[[str, Iterable[Tensor]], None],
    ) -> None:
        super().__init__()
        self._path, self._value_of, self._note_result = path, value_of, note_result
        self._training = False
        self._counts: dict[str, Counter[Instructions]] = {}  # in the current pass of each module
        self._orders: dict[str, Counter[Instructions]] = {}
        self._noted: list[tuple[_RecordedCall, Path, Number, Extent | None]] = []

    def begin_module(self, name: str, *, training: bool) -> None:
        """A module's forward pass begins: its calls are counted from the start."""
        self._counts[name] = Counter()
        self._training = training

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name != "__get__":
            module = self._path[-1]
            site, _ = find_call_site(sys._getframe())
            counts = self._counts.setdefault(module, Counter())
            orders = self._orders.setdefault(module, Counter())
            count, order = counts[site.instructions], orders[site.instructions]
            counts[site.instructions] += 1
            orders[site.instructions] += 1
            read = list(read_number(name, TracedCall(args, kwargs, result, self._value_of)))
            if read:
                operand = self._channel_extents((args, kwargs))
                call = _RecordedCall(module, site, count, order, self._training, operand, name in FACTORIES)
                self._noted += [(call, path, number, extent) for path, number, extent in read]
                self._note_result(module, tensor_leaves(result))
        return result

    def _channel_extents(self, call: tuple[Any, ...]) -> tuple[Extent, ...]:
        tensor = next(iter(tensor_leaves(call)), None)
        if tensor is None:
            return ()
        value = self._value_of(tensor)
        dims = sorted({dim for plane in value.planes for dim in varying_dims(plane)})
        return tuple(Extent(value, dim, tensor.shape[dim]) for dim in dims)

    def numbers(self, unit_of: Tensor) -> Iterator[CallNumber]:
        """All of them; the caller forgets those that the code gets right by itself.

        Args:
            unit_of: (labels,) the unit of every label, or `ALWAYS`.
        """
        # What a new tensor is sized by are mostly positions and batches, which the code gets right by itself.
        widths = {(*entry[0].place, entry[1]) for entry in self._noted
                  if entry[3] is not None and units_along(entry[3], unit_of) is not None}  # fmt: skip
        alike = Counter(map(_without_order, self._noted))
        for entry in self._noted:
            call, path, number, extent = entry
            if call.makes_tensor and (*call.place, path) not in widths:
                continue
            units = None if extent is None else units_along(extent, unit_of)
            # Only calls that nothing else tells apart are told apart by their tensors.
            extents = call.operand if alike[_without_order(entry)] > 1 else ()
            operand = tuple((part.dim, part.length, units_along(part, unit_of)) for part in extents)
            yield CallNumber(
                call.module,
                call.site,
                path,
                call.count,
                call.order,
                call.training,
                number,
                units,
                extent is None,
                operand,
            )


def _without_order(noted: tuple[_RecordedCall, Path, Number, Extent | None]) -> tuple[Any, ...]:
    call, path, number, _ = noted
    return call.module, call.site, path, number


def units_along(extent: Extent, unit_of: Tensor) -> Tensor | None:
    """(length, m) units of the indices, one column for every element across; None if none of them is ever removed."""
    columns = []
    for plane in extent.value.planes:
        if extent.dim in varying_dims(plane):
            lines = plane.movedim(extent.dim, 0).reshape(plane.shape[extent.dim], -1)
            lines = lines[: extent.length] if extent.length >= 0 else lines[extent.length :]
            columns.append(torch.where(lines > 0, unit_of[lines.clamp_min(0)], ALWAYS))
    if not columns:
        return None
    # Planes are cut independently: an index that one of them loses is gone. Two at once are left to the trial.
    units = max(columns, key=lambda column: int((column >= 0).any()))
    return torch.unique(units, dim=1) if bool((units >= 0).any()) else None

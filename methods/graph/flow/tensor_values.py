"""What is known of each tensor of a pass, by the memory that it shows: tensors themselves are not kept alive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from methods.graph.flow.labels import compact, varying_dims
from methods.graph.flow.planes import Value
from methods.graph.products import memory_of


class View(NamedTuple):
    """What a tensor shows of its memory; two tensors of one view have the same elements."""

    memory: int
    offset: int
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


class TensorValues:
    """The planes of every tensor, and of the tensors that share its memory."""

    def __init__(self) -> None:
        self._values: dict[int, dict[View, Value]] = {}  # by memory
        # Without them, another tensor could take a dead one's place in memory, and with it its labels.
        self._places: dict[int, StorageWeakRef | Tensor] = {}

    def value_of(self, tensor: Tensor) -> Value:
        """Without planes, if nothing is known of it."""
        view = view_of(tensor)
        return self._values.get(view.memory, {}).get(view) or Value(tensor.shape)

    def set_value(self, tensor: Tensor, value: Value) -> None:
        """Of a tensor that an operator has returned."""
        view = view_of(tensor)
        if view.memory not in self._places:
            is_strided = tensor.layout == torch.strided
            self._places[view.memory] = StorageWeakRef(tensor.untyped_storage()) if is_strided else tensor
        self._values.setdefault(view.memory, {})[view] = value

    def write_value(self, output: Tensor, value: Value) -> None:
        """Of a tensor that an operator has written into: others may show the same memory."""
        view = view_of(output)
        if self._values.get(view.memory, {}).keys() - {view}:
            self._write_through(view, value, output.untyped_storage().nbytes())
        else:
            self.set_value(output, value)

    def _write_through(self, output: View, written: Value, size: int) -> None:
        """After a write into memory that other tensors show: their planes are read anew from the largest one's.

        Args:
            size: of the memory, in bytes.
        """
        values = self._values[output.memory]
        whole = max(values, key=lambda view: view.shape.numel())
        if whole.shape.numel() <= output.shape.numel():
            whole, value = output, written
        else:
            value = values[whole]
        planes_of_memory = []
        for plane, over in _match_written(whole, value.planes, output, written.planes):
            memory = torch.zeros(size // output.dtype.itemsize, dtype=torch.long)
            for view, shown in ((whole, plane), (output, over)):
                if shown is not None:
                    _show(memory, view).copy_(shown.expand(view.shape))
            planes_of_memory.append(memory)
        for view, old in [*values.items(), (whole, value), (output, written)]:
            read_planes = (compact(_show(memory, view).clone()) for memory in planes_of_memory)
            read = tuple(plane for plane in read_planes if plane.numel() > 1)
            values[view] = Value(view.shape, read, old.is_data or written.is_data)


def _match_written(
    whole: View, planes: Sequence[Tensor], output: View, written: Sequence[Tensor]
) -> list[tuple[Tensor | None, Tensor | None]]:
    """The planes of a memory with those written into a part of it, matched by steps in memory."""

    def steps_of(view: View, plane: Tensor) -> set[int]:
        return {view.stride[d] for d in varying_dims(plane)}

    remaining, pairs = list(planes), list[tuple[Tensor | None, Tensor | None]]()
    for over in written:
        steps = steps_of(output, over)
        number = next((n for n, plane in enumerate(remaining) if steps_of(whole, plane) & steps), 0)
        pairs.append((remaining.pop(number) if remaining else None, over))
    return [*pairs, *((plane, None) for plane in remaining)]


def _show(memory: Tensor, view: View) -> Tensor:
    return memory.as_strided(view.shape, view.stride, view.offset)


def view_of(tensor: Tensor) -> View:
    """Of a sparse tensor no more than itself."""
    if tensor.layout != torch.strided:
        return View(memory_of(tensor), 0, tensor.shape, (), tensor.dtype)
    return View(memory_of(tensor), int(tensor.storage_offset()), tensor.shape, tensor.stride(), tensor.dtype)

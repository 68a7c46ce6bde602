"""Which numbers in the calls of a network's code are widths, and how wide they are in a narrowed network.

A number is a width if the labels of channels vary along the dimension that it is the size of. Factors that the code
computes from widths (`dim ** -0.5`) stay what they are in the dense network.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from methods.graph.call_numbers import (
    ATTENTION_SCALE,
    Instruction,
    Number,
    Path,
    Place,
    ReplacedNumbers,
    attention_scale,
    calling_instruction,
    list_numbers,
)  # fmt: skip
from methods.graph.flow.labels import varying_dims
from methods.graph.flow.planes import Value
from methods.graph.trace import evaluation_mode, separate_operators

ALWAYS = -1  # the unit of what is never removed


@dataclass(frozen=True)
class CallNumber:
    """A number in a call that a module's code makes.

    Attributes:
        dense: what it is in the dense network.
        units: of each of the `dense` indices that it counts, (dense, m): an index stays if one of its units does;
            None for a factor and for what is never removed, which stay as they are.
    """

    module: str
    place: Place
    path: Path
    dense: Number
    units: Tensor | None = None

    def narrowed(self, stays: Tensor) -> Number:
        """The number where only some units stay; `stays` (number of units + 1,), its last entry is for `ALWAYS`."""
        if self.units is None:
            return self.dense
        count = int(stays[self.units].any(-1).sum())
        return -count if self.dense < 0 else count


@dataclass(frozen=True)
class Extent:
    """Indices of one dimension of a tensor: the first ones, or, if negative, the last ones."""

    value: Value
    dim: int
    length: int


class CallRecorder(TorchFunctionMode):
    """While this mode is on, the numbers in calls are noted, with the labels of what they count.

    Args:
        path: the names of the modules that run, the innermost last.
        value_of: what is known of a tensor.
    """

    def __init__(self, path: Sequence[str], value_of: Callable[[Tensor], Value]) -> None:
        super().__init__()
        self._path, self._value_of = path, value_of
        self._calls: dict[str, Counter[Instruction]] = {}
        self._noted: dict[tuple[str, Place, Path], tuple[Number, Extent | None]] = {}

    def begin_module(self, name: str) -> None:
        """A module's forward pass begins: its calls are counted from the start."""
        self._calls[name] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = (args, kwargs or {})
        result = func(*call[0], **call[1])
        name = getattr(func, "__name__", "")
        if name != "__get__":
            module = self._path[-1]
            instruction = calling_instruction(sys._getframe())
            for running in set(self._path):  # calls within a module count as the module's own
                self._calls.setdefault(running, Counter())[instruction] += 1
            place = (instruction, self._calls[module][instruction] - 1)
            for path, number, extent in _read_call(name, call, result, self._value_of):
                self._noted.setdefault((module, place, path), (number, extent))
        return result

    def numbers(self, unit_of: Tensor) -> Iterator[CallNumber]:
        """All of them; the caller forgets those that the code gets right by itself.

        Args:
            unit_of: (labels,) the unit of every label, or `ALWAYS`.
        """
        for (module, place, path), (number, extent) in self._noted.items():
            units = None if extent is None else _units_along(extent, unit_of)
            yield CallNumber(module, place, path, number, units)


def _units_along(extent: Extent, unit_of: Tensor) -> Tensor | None:
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


Found = tuple[Path, Number, Extent | None]
_ARITHMETIC = frozenset(["mul", "div", "true_divide", "add", "sub", "pow"])


def _read_call(
    name: str, call: tuple[Any, dict[str, Any]], result: Any, value_of: Callable[[Tensor], Value]
) -> Iterator[Found]:
    """The numbers of one call that may depend on widths."""
    args, _ = call
    written = list(list_numbers(call))
    if name in ("view", "reshape", "expand") and len(written) == result.dim():
        sizes = [(path, dim) for dim, (path, _) in enumerate(written)]
    elif name == "unflatten":
        dim = int(written[0][1]) % args[0].dim()
        sizes = [(path, dim + i) for i, (path, _) in enumerate(written[1:])]
    elif name in ("layer_norm", "rms_norm"):
        shape = [path for path, _ in written if path[:2] in ((0, 1), (1, "normalized_shape"))]
        sizes = [(path, result.dim() - len(shape) + i) for i, path in enumerate(shape)]
    else:
        sizes = []
    numbers = dict(written)
    for path, dim in sizes:
        if numbers[path] >= 0:
            yield path, numbers[path], Extent(value_of(result), dim, int(numbers[path]))
    if name in ("split", "split_with_sizes"):
        yield from _read_split(written, result, value_of)
    elif name == "__getitem__":
        yield from _read_index(args[0], args[1], value_of)
    elif name in ("narrow", "narrow_copy"):
        dim = int(numbers[0, 1]) % args[0].dim() if (0, 1) in numbers else 0
        for path, tensor in (((0, 2), args[0]), ((0, 3), result)):
            if path in numbers:
                yield path, numbers[path], Extent(value_of(tensor), dim, int(numbers[path]))
    elif name == "scaled_dot_product_attention":
        yield ATTENTION_SCALE, numbers.get(ATTENTION_SCALE, attention_scale(*call)), None
    elif name in ("conv1d", "conv2d", "conv3d"):
        for path, number in written:
            if path in ((1, "groups"), (0, 6)) and number == result.shape[1] > 1:  # depthwise
                yield path, number, Extent(value_of(result), 1, int(number))
    elif not sizes:
        arithmetic = name.strip("_").lstrip("ri") in _ARITHMETIC or name.strip("_") in _ARITHMETIC
        yield from ((path, number, None) for path, number in written if arithmetic or isinstance(number, float))


def _read_split(
    written: list[tuple[Path, Number]], result: Any, value_of: Callable[[Tensor], Value]
) -> Iterator[Found]:
    sizes = [path for path, _ in written if path[:2] == (0, 1) or str(path[1]).startswith("split_size")]
    numbers = dict(written)
    dim = int(next((number for path, number in written if path in ((0, 2), (1, "dim"))), 0)) % result[0].dim()
    # One size for all parts is that of the first; the last may be shorter.
    for path, part in zip(sizes, result, strict=False):
        yield path, numbers[path], Extent(value_of(part), dim, int(numbers[path]))


def _read_index(tensor: Tensor, index: Any, value_of: Callable[[Tensor], Value]) -> Iterator[Found]:
    items = index if isinstance(index, tuple) else (index,)
    used = sum(1 if not isinstance(item, Tensor) or item.dtype != torch.bool else item.dim()
               for item in items if item is not None and item is not Ellipsis)  # fmt: skip
    dim = 0
    for position, item in enumerate(items):
        if item is Ellipsis:
            dim += tensor.dim() - used
            continue
        if item is None:
            continue
        base: Path = (0, 1, position) if isinstance(index, tuple) else (0, 1)
        if isinstance(item, slice) and item.step in (None, 1):
            for name in ("start", "stop"):
                bound = getattr(item, name)
                if isinstance(bound, int) and bound and abs(bound) <= tensor.shape[dim]:
                    yield (*base, name), bound, Extent(value_of(tensor), dim, bound)
        dim += item.dim() if isinstance(item, Tensor) and item.dtype == torch.bool else 1


class CallNumbers:
    """The numbers in the code of a network that do not fit without its channels.

    Attributes:
        first: group -> its first unit; the units of a group are its channels.
    """

    def __init__(self, candidates: Sequence[CallNumber], first: Mapping[str, int], units: int) -> None:
        self.first, self._units = dict(first), units
        self._candidates = list(candidates)

    def write_numbers(
        self, network: nn.Module, staying: Mapping[str, Tensor], *, observing: bool = False
    ) -> dict[str, ReplacedNumbers]:
        """Let the code of a narrowed network get the numbers that fit, in place.

        Args:
            staying: group -> the channels that it keeps; all, if it is not named.
            observing: only note where the code has other numbers.
        """
        stays = torch.ones(self._units + 1, dtype=torch.bool)
        ends = [*sorted(self.first.values()), self._units]
        for name, channels in staying.items():
            if name in self.first:
                start = self.first[name]
                stays[start : ends[ends.index(start) + 1]] = False
                stays[start + channels] = True
        numbers: dict[str, dict[Place, dict[Path, Number]]] = {}
        for entry in self._candidates:
            numbers.setdefault(entry.module, {}).setdefault(entry.place, {})[entry.path] = entry.narrowed(stays)
        written = {name: ReplacedNumbers(own, observing=observing) for name, own in numbers.items()}
        for name, replacement in written.items():
            replacement.attach(network.get_submodule(name))
        return written

    def keep_needed(self, runs: Sequence[Mapping[str, ReplacedNumbers]]) -> None:
        """Forget the numbers that the code gets right by itself, in all of several narrowed networks that have run."""
        needed = {(name, *place) for run in runs for name, written in run.items() for place in written.replaced}
        self._candidates = [entry for entry in self._candidates if (entry.module, entry.place, entry.path) in needed]

    def drop_varying(self, network: nn.Module, example: Tensor) -> None:
        """Forget the numbers that are others on a batch of another size: they are no widths alone.

        Args:
            network: a copy of the dense network.
            example: a batch (B, C, H, W) of one image or more; the trace has seen one.
        """
        written = self.write_numbers(network, {}, observing=True)
        with suppress(Exception), evaluation_mode(network, example), separate_operators():  # it may want one size alone
            network(torch.cat([example, example]))
        varying = {(name, *place) for name, numbers in written.items() for place in numbers.replaced}
        self._candidates = [
            entry for entry in self._candidates if (entry.module, entry.place, entry.path) not in varying
        ]

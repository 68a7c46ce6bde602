"""Numbers that a network's code hands to operators, and other ones in their place.

Code holds widths: `x.view(-1, 256)`, `x.split([24, 20, 20], 1)`, `q * (dim // heads) ** -0.5`. In a narrowed network
such a call gets the number that fits, whether it is a constant, an attribute, or computed from the shape of another
tensor; the code itself stays as it is. A number is found again by the instruction that makes the call.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

import torch
import torch._tensor
import torch.functional
import torch.overrides
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Instruction = tuple[str, int, int]
"""Its function, the line on which this begins, the instruction's offset."""
Place = tuple[Instruction, int]
"""An instruction, and how often it ran before in this run of the module's forward pass."""
Path = tuple[int | str, ...]
"""Where a number stands in (args, kwargs)."""
Number = int | float
Numbers = Mapping[Place, Mapping[Path, Number]]

_BETWEEN = (__file__, torch.overrides.__file__, torch._tensor.__file__, torch.functional.__file__)
_SLICE = ("start", "stop", "step")
ATTENTION_SCALE: Path = (1, "scale")


def list_numbers(value: Any, path: Path = ()) -> Iterator[tuple[Path, Number]]:
    """All numbers in a call's arguments, in their order."""
    if isinstance(value, (int, float)):
        if not isinstance(value, bool):
            yield path, value
    elif isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            yield from list_numbers(item, (*path, index))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from list_numbers(item, (*path, key))
    elif isinstance(value, slice):
        for name in _SLICE:
            yield from list_numbers(getattr(value, name), (*path, name))


def replace_numbers(value: Any, numbers: Mapping[Path, Number], path: Path = ()) -> Any:
    """The arguments with other numbers at some places."""
    if path in numbers:
        return numbers[path]
    if not any(place[: len(path)] == path for place in numbers):
        return value
    if isinstance(value, (tuple, list)):
        items = [replace_numbers(item, numbers, (*path, index)) for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, dict):
        replaced = {key: replace_numbers(item, numbers, (*path, key)) for key, item in value.items()}
        added = {p[-1]: number for p, number in numbers.items() if p[:-1] == path and p[-1] not in value}
        return replaced | added
    if isinstance(value, slice):
        return slice(*(replace_numbers(getattr(value, name), numbers, (*path, name)) for name in _SLICE))
    return value


def calling_instruction(handler: FrameType) -> Instruction:
    """The instruction whose call torch handed to a mode: the innermost one outside torch's own wrappers.

    Args:
        handler: the frame of the mode's `__torch_function__`.
    """
    frame = handler.f_back
    assert frame is not None
    while frame.f_code.co_filename in _BETWEEN and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code.co_qualname, frame.f_code.co_firstlineno, frame.f_lasti


def attention_scale(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
    """What fused attention multiplies its scores with unless it is told something else."""
    query = args[0] if args else kwargs["query"]
    return float(query.shape[-1] ** -0.5)


class _ReplacingMode(TorchFunctionMode):
    def __init__(self, numbers: Numbers, replaced: dict[tuple[Place, Path], None], *, observing: bool) -> None:
        super().__init__()
        self._numbers, self._replaced, self._observing = numbers, replaced, observing
        self._calls: Counter[Instruction] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = (args, kwargs or {})
        if getattr(func, "__name__", "") != "__get__":
            instruction = calling_instruction(sys._getframe())
            place = (instruction, self._calls[instruction])
            self._calls[instruction] += 1
            numbers = self._numbers.get(place)
            if numbers is not None:
                written = dict(list_numbers(call))
                if ATTENTION_SCALE in numbers:
                    written.setdefault(ATTENTION_SCALE, attention_scale(*call))
                changed = {path: number for path, number in numbers.items() if written.get(path) != number}
                self._replaced.update(dict.fromkeys((place, path) for path in changed))
                call = call if self._observing else replace_numbers(call, changed)
        return func(*call[0], **call[1])


class ReplacedNumbers:
    """Other numbers in the calls that one module's own code makes.

    Attributes:
        observing: whether the code keeps its numbers, and it is only noted where they differ.
        replaced: the numbers that differed from those of the code.
    """

    def __init__(self, numbers: Numbers, *, observing: bool = False) -> None:
        self.numbers, self.observing = numbers, observing
        self.replaced: dict[tuple[Place, Path], None] = {}
        self._running: list[_ReplacingMode] = []

    def attach(self, module: nn.Module) -> None:
        """From now on, for every forward pass of the module."""
        module.register_forward_pre_hook(self._begin)
        module.register_forward_hook(self._end, always_call=True)

    def _begin(self, _module: nn.Module, _inputs: Any) -> None:
        self._running.append(_ReplacingMode(self.numbers, self.replaced, observing=self.observing))
        self._running[-1].__enter__()

    def _end(self, _module: nn.Module, _inputs: Any, _output: Tensor | None) -> None:
        self._running.pop().__exit__(None, None, None)

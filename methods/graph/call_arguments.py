"""Numbers among the arguments of a call, wherever they stand: in tuples, lists, keywords or slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from models.execution.tensor_leaves import tensor_leaves

Path = tuple[int | str, ...]
"""Where a number stands in (args, kwargs)."""
Number = int | float
"""A symbol (`torch.SymInt`) stands for it where a program is exported for any batch."""

_SLICE = ("start", "stop", "step")
ATTENTION_SCALE: Path = (1, "scale")


def is_symbol(value: Any) -> bool:
    """Symbols are not compared: the exported program would hold for the outcome alone."""
    return isinstance(value, torch.SymInt)


def list_numbers(value: Any, path: Path = ()) -> Iterator[tuple[Path, Number]]:
    """All numbers in a call's arguments, in their order."""
    if isinstance(value, (int, float)) or is_symbol(value):
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


def attention_scale(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
    """What fused attention multiplies its scores with unless it is told something else."""
    query = args[0] if args else kwargs["query"]
    return float(query.shape[-1] ** -0.5)


def first_shape(call: tuple[Any, ...]) -> tuple[int, ...]:
    """The shape of the first tensor among a call's arguments."""
    tensor = next(iter(tensor_leaves(call)), None)
    return () if tensor is None else tuple(tensor.shape)

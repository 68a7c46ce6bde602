"""What of a task's data and settings can be seen, as a digest: outcomes of other data are no outcomes of this task."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.tasks.overlap import entries_of
from models.tensor_digest import digest_tensors

_MOST_ITEMS = 10_000
_MOST_NUMBERS = 1_000_000
_NO_DATA = frozenset(("network", "example", "device", "metrics"))


def digest_visible(task: Any) -> str:
    """Of the attributes of a task: tensors, arrays, data loaders, numbers, names, functions; not of files they read."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in vars(task).items():
        if name not in _NO_DATA:
            digest.update(f"{name}: ".encode())
            for text in _describe(value, set()):
                digest.update(f"{text}; ".encode())
    return digest.hexdigest()


def _describe(value: Any, seen: set[int]) -> Iterator[str]:
    if isinstance(value, str | int | float | bool | None):
        yield repr(value)
    elif id(value) in seen:
        return
    elif isinstance(value, Tensor | np.ndarray):
        yield _describe_numbers(torch.as_tensor(value) if isinstance(value, Tensor) or _is_number(value) else value)
    elif isinstance(value, nn.Module):
        yield f"{type(value).__qualname__} {digest_tensors(value.state_dict().items())}"
    else:
        seen.add(id(value))
        yield type(value).__qualname__
        for part in _parts_of(value):
            yield from _describe(part, seen)


def _parts_of(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [part for item in list(value.items())[:_MOST_ITEMS] for part in item]
    if isinstance(value, list | tuple):
        return list(value[:_MOST_ITEMS])
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if inspect.isfunction(value):
        # Its code is known otherwise: with its file, or by the name of the object.
        with suppress(ValueError):  # a variable that has no value yet
            return [value.__qualname__, dict(inspect.getclosurevars(value).nonlocals), value.__defaults__]
        return [value.__qualname__]
    if hasattr(value, "dataset"):
        data, indices = entries_of(value)
        return [getattr(data, "tensors", len(indices)), torch.tensor(indices)]
    return [value.tensors] if hasattr(value, "tensors") else []


def _is_number(array: np.ndarray) -> bool:
    return array.dtype.kind in "biuf" and array.dtype.itemsize <= 8


def _describe_numbers(numbers: Tensor | np.ndarray) -> str:
    """Whole numbers exactly; others by mean and deviation alone: processors round differently."""
    shape = tuple(numbers.shape)
    if not isinstance(numbers, Tensor):
        return f"{numbers.dtype} {shape}"
    if numbers.is_floating_point() and numbers.numel():
        some = numbers.detach().reshape(-1)[:: max(1, numbers.numel() // _MOST_NUMBERS)].double()
        mean, deviation = float(some.mean()), float(some.std(correction=0))
        return f"{shape} {mean:.3g} {deviation:.3g}"
    return f"{shape} {digest_tensors([('', numbers)])}"

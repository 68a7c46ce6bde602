"""Batches whose make-up only their task knows: counted, moved to a device, drawn with random numbers of their own."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import BatchSampler

from models.execution.tensor_leaves import tensor_leaves


def count_inputs(batch: Any) -> int:
    """Inputs of a batch: entries of a list of pictures, or rows of its first tensor; 1 if there is none."""
    first = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if isinstance(first, tuple | list):
        return len(first)
    tensors = [first] if isinstance(first, Tensor) else tensor_leaves(batch)
    return len(tensors[0]) if tensors and tensors[0].dim() else 1


def loader_size(loader: Any) -> int | None:
    """How many inputs an epoch of a `DataLoader` has: as many as its sampler draws; None where that is not known."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    if batch_sampler is not None and type(batch_sampler) is not BatchSampler:  # one of the user's own
        return None
    sampler: Any = getattr(batch_sampler, "sampler", getattr(loader, "dataset", None))
    return len(sampler) if hasattr(sampler, "__len__") else None


def is_used_up(batches: Any) -> bool:
    """Whether batches can be drawn only once: an iterator, such as a generator."""
    return iter(batches) is batches


def move_batch(batch: Any, device: torch.device) -> Any:
    """The batch with all its tensors on the device, and what else can be moved (`.to`)."""
    return tree_map(lambda leaf: leaf.to(device) if hasattr(leaf, "to") else leaf, batch)


class MovedBatches:
    """An iterable of batches, moved to a device as they are drawn; its length is that of the iterable."""

    def __init__(self, batches: Iterable[Any], device: torch.device) -> None:
        self._batches, self._device = batches, device

    def __iter__(self) -> Iterator[Any]:
        # A loader that shuffles gives every network the same batches.
        return (move_batch(batch, self._device) for batch in draw_apart(lambda: self._batches, 0))

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]


def first_batches(batches: Iterable[Any], count: int) -> Iterator[Any]:
    """Batches until so many inputs have come."""
    seen = 0
    for batch in batches:
        yield batch
        seen += count_inputs(batch)
        if seen >= count:
            return


def draw_apart(make_batches: Callable[[], Iterable[Any]], seed: int) -> Iterator[Any]:
    """Batches drawn with random numbers of their own: whoever trains on them in between disturbs nothing."""
    stream = _RandomStream(seed)
    with stream.active():
        batches = iter(make_batches())
    while True:
        with stream.active():
            try:
                batch = next(batches)
            except StopIteration:
                return
        yield batch


class _RandomStream:
    """The states of torch's, NumPy's and Python's random numbers, put in place while it is active."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        numbers = np.random.RandomState(seed % 2**32)
        self._states = (generator.get_state(), numbers.get_state(), random.Random(seed).getstate())

    @contextmanager
    def active(self) -> Iterator[None]:
        outside = _random_states()
        _set_random_states(self._states)
        try:
            yield
        finally:
            self._states = _random_states()
            _set_random_states(outside)


def _random_states() -> tuple[Tensor, Any, Any]:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def _set_random_states(states: tuple[Tensor, Any, Any]) -> None:
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])

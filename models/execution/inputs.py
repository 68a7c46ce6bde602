"""What a network is called with: one tensor, several, lists of them, or a dictionary of keyword arguments."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from models.execution.tensor_leaves import tensor_leaves

Example = Any
"""A tensor (the only argument), a tuple of positional or a mapping of keyword arguments, or `Inputs`."""


@dataclass(frozen=True)
class Inputs:
    """A batch of inputs as positional and keyword arguments; tensors may lie in lists, tuples and dictionaries."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    listed: bool = False
    """Whether the inputs of a batch are items of lists, as torchvision's detectors take them, not rows of tensors."""
    training: Inputs | None = None
    """What the network is called with in training, where that is something else (images and their boxes)."""

    @classmethod
    def of(cls, example: Example) -> Inputs:
        """A tensor is the only argument, a tuple holds positional ones, a mapping keyword ones."""
        if isinstance(example, Inputs):
            return example
        if isinstance(example, Mapping):
            return cls((), dict(example))
        return cls(tuple(example) if isinstance(example, tuple) else (example,))

    def __call__(self, network: nn.Module) -> Any:
        """What the network returns."""
        return network(*self.args, **self.kwargs)

    def __len__(self) -> int:
        """How many inputs the batch has."""
        if self.listed:
            return next((len(value) for value in self._arguments() if isinstance(value, (list, tuple))), 1)
        tensors = [tensor for tensor in self.tensors if tensor.dim()]
        most = max(map(Tensor.dim, tensors), default=0)
        # Beside inputs there may be a mask of places, one row for all (positions), a size of two numbers: what most of
        # the largest tensors say, and more rather than fewer.
        sizes = Counter(len(tensor) for tensor in tensors if tensor.dim() == most)
        return max(sizes, key=lambda size: (sizes[size], size), default=1)

    def map(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """The same arguments with every tensor changed."""

        def change_leaf(leaf: Any) -> Any:
            return change(leaf) if isinstance(leaf, Tensor) else leaf

        return replace(self, args=tree_map(change_leaf, self.args), kwargs=tree_map(change_leaf, dict(self.kwargs)))

    def map_floats(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """The same arguments with every floating-point tensor changed: indices, masks and sizes are what they are."""
        return self.map(lambda tensor: change(tensor) if tensor.is_floating_point() else tensor)

    def scale(self, factor: float) -> Inputs:
        """Brighter or darker images."""
        return self.map_floats(lambda tensor: tensor * factor)

    def clone(self) -> Inputs:
        """A copy, which code may write into."""
        return self.map(Tensor.clone)

    def to(self, device: torch.device | str) -> Inputs:
        moved = self.map(lambda tensor: tensor.to(device))
        return moved if self.training is None else replace(moved, training=self.training.to(device))

    def cast(self, dtype: torch.dtype) -> Inputs:
        """A copy with numbers of another precision."""
        return self.map(lambda tensor: tensor.to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True))

    def first(self, count: int = 1) -> Inputs:
        """The first inputs of the batch."""
        return self.between(0, count)

    def between(self, start: int, end: int) -> Inputs:
        """The inputs of the batch from one number to before another."""
        return self._pick(slice(start, end))

    def repeat(self, count: int) -> Inputs:
        """A batch of `count` inputs, those of this batch over and over."""
        return self._pick([number % len(self) for number in range(count)])

    def _pick(self, numbers: slice | list[int]) -> Inputs:
        size = len(self)

        def pick_items(value: Any) -> Any:
            if isinstance(value, (list, tuple)) and len(value) == size:
                return value[numbers] if isinstance(numbers, slice) else [value[number] for number in numbers]
            return value

        if self.listed:
            return replace(
                self,
                args=tuple(map(pick_items, self.args)),
                kwargs={name: pick_items(value) for name, value in self.kwargs.items()},
            )
        # Tensors of another length belong to no input: anchors, a mask of positions, a step of a schedule.
        return self.map(lambda tensor: tensor[numbers] if tensor.dim() and len(tensor) == size else tensor)

    @classmethod
    def join(cls, batches: Sequence[Inputs]) -> Inputs:
        """One batch of several that are alike; the first one if they are not: images of other sizes."""
        sizes, leaves = [len(batch) for batch in batches], [batch.tensors for batch in batches]
        if batches[0].listed:
            return cls(tuple(_chain_lists(same) for same in zip(*(batch.args for batch in batches), strict=True)), {
                name: _chain_lists([batch.kwargs[name] for batch in batches]) for name in batches[0].kwargs
            }, listed=True)  # fmt: skip
        if len(batches) == 1 or len({len(tensors) for tensors in leaves}) > 1:
            return batches[0]

        def is_own(tensors: Sequence[Tensor]) -> bool:
            return all(tensor.dim() and len(tensor) == size for tensor, size in zip(tensors, sizes, strict=True))

        try:
            joined = iter([torch.cat(same) if is_own(same) else same[0] for same in zip(*leaves, strict=True)])
        except RuntimeError:
            return batches[0]
        return batches[0].map(lambda tensor: next(joined))

    def like(self, other: Inputs, network: nn.Module) -> Inputs:
        """The same arguments, by position and by name as in another call of the network."""
        try:
            signature = inspect.signature(network.forward)
            own, wanted = (dict(signature.bind(*call.args, **call.kwargs).arguments) for call in (self, other))
        except (TypeError, ValueError):
            return self
        if own.keys() != wanted.keys() or other.kwargs.keys() - own.keys():
            return self
        positional = [value for name, value in own.items() if name not in other.kwargs]
        return replace(self, args=tuple(positional), kwargs={name: own[name] for name in other.kwargs})

    def batch_dims(self) -> Any:
        """Of each tensor among the arguments, as they lie there, whether its rows are inputs; None elsewhere."""
        size, listed = len(self), self.listed
        return tree_map(
            lambda leaf: bool(not listed and leaf.dim() and len(leaf) == size) if isinstance(leaf, Tensor) else None,
            (self.args, dict(self.kwargs)),
        )

    def spatial_dims(self, tensor: Tensor) -> range:
        """The dimensions of one of the tensors behind its channels; none of a smaller tensor beside images."""
        most = max(map(Tensor.dim, self.tensors))
        return range(1 if self.listed else 2, tensor.dim() if tensor.dim() == most else 0)

    def _arguments(self) -> Iterator[Any]:
        yield from self.args
        yield from self.kwargs.values()

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, in order."""
        return tensor_leaves((self.args, dict(self.kwargs)))

    @property
    def device(self) -> torch.device:
        return self.tensors[0].device

    @property
    def only_tensor(self) -> Tensor | None:
        """The tensor that is the only argument, if it is that."""
        alone = len(self.args) == 1 and not self.kwargs and isinstance(self.args[0], Tensor)
        return self.args[0] if alone else None


def _chain_lists(values: Sequence[Any]) -> Any:
    """One list of several; the first of other values."""
    return [item for value in values for item in value] if isinstance(values[0], (list, tuple)) else values[0]

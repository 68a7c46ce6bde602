"""What a network is called with: one tensor, several, or a dictionary of keyword arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from models.execution.tensor_leaves import tensor_leaves


@dataclass(frozen=True)
class Inputs:
    """Positional and keyword arguments; tensors may lie in lists, tuples and dictionaries among them."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, example: Any) -> Inputs:
        """A tensor is the only argument, a tuple holds positional ones, a mapping keyword ones."""
        if isinstance(example, Inputs):
            return example
        if isinstance(example, Mapping):
            return cls((), dict(example))
        return cls(tuple(example) if isinstance(example, tuple) else (example,))

    def __call__(self, network: nn.Module) -> Any:
        """What the network returns."""
        return network(*self.args, **self.kwargs)

    def map(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """The same arguments with every tensor changed."""

        def change_leaf(leaf: Any) -> Any:
            return change(leaf) if isinstance(leaf, Tensor) else leaf

        return Inputs(tree_map(change_leaf, self.args), tree_map(change_leaf, dict(self.kwargs)))

    def to(self, device: torch.device | str) -> Inputs:
        return self.map(lambda tensor: tensor.to(device))

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, in order."""
        return tensor_leaves((self.args, dict(self.kwargs)))

    @property
    def only_tensor(self) -> Tensor | None:
        """The tensor that is the only argument, if it is that."""
        alone = len(self.args) == 1 and not self.kwargs and isinstance(self.args[0], Tensor)
        return self.args[0] if alone else None

"""All tensors in whatever a network takes or returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves


def tensor_leaves(value: Any) -> list[Tensor]:
    """The tensors in nested lists, tuples, mappings, and attributes of other objects (dataclasses), in order.

    What else is there (None, numbers, names) is left out.
    """
    return list(_open_objects(value, set()))


def output_leaves(value: Any) -> list[Tensor]:
    """The tensors in what a network returns, as numbers to compare: sparse ones dense, complex ones as pairs."""
    dense = (tensor.to_dense() if tensor.layout != torch.strided else tensor for tensor in tensor_leaves(value))
    return [torch.view_as_real(tensor) if tensor.is_complex() else tensor for tensor in dense]


def first_tensor(values: Any) -> Tensor:
    """The first of the arguments of a call that is a tensor: what a layer or norm is applied to."""
    return tensor_leaves(values)[0]


def _open_objects(value: Any, opened: set[int]) -> list[Tensor]:
    tensors: list[Tensor] = []
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            tensors.append(leaf)
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, type) and not callable(leaf) and id(leaf) not in opened:
            opened.add(id(leaf))  # objects may point at each other
            # Hugging Face's outputs and the like are mappings of a class that torch's trees do not open.
            tensors += _open_objects(dict(leaf) if isinstance(leaf, Mapping) else vars(leaf), opened)
    return tensors

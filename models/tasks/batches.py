"""Batches whose make-up only their task knows."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from models.execution.tensor_leaves import tensor_leaves


def count_inputs(batch: Any) -> int:
    """Inputs of a batch: entries of a list of pictures, or rows of its first tensor; 1 if there is none."""
    first = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if isinstance(first, tuple | list):
        return len(first)
    tensors = [first] if isinstance(first, Tensor) else tensor_leaves(batch)
    return len(tensors[0]) if tensors and tensors[0].dim() else 1

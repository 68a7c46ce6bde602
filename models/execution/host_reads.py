"""Operators for which the host waits for the device, or a device for the host: a CUDA graph can hold none of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from models.execution.operator_mode import OperatorMode

_READ = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


class HostReads(OperatorMode):
    """Notes, while it lasts, the operators that read values back and those that move tensors between devices."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: set[str] = set()
        """Their names: `aten::_local_scalar_dense` is `.item()`."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = _tensors([args, kwargs])
        devices = {tensor.device for tensor in [*given, *_tensors(result)] if not _is_constant(tensor)}
        # An index of booleans becomes one of the positions at which they are true, whose number must be known.
        by_mask = func.name().startswith("aten::index") and any(mask.dtype == torch.bool for mask in given[1:])
        if by_mask or len(devices) > 1 or any(tag in func.tags for tag in _READ):
            self.operators.add(func.name().partition(".")[0])
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _is_constant(tensor: Tensor) -> bool:
    """Whether it may be a Python number: operators take those of the host as arguments of their kernels."""
    return tensor.dim() == 0 and tensor.is_cpu

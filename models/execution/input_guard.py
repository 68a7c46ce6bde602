"""Networks that change their input in place are handed a copy of it.

A batch is used more than once: by the teacher and the student, by the trials that compare two networks.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def guard_inputs(network: nn.Module) -> None:
    """Have the network work on copies of its inputs from now on, and every copy of the network as well."""
    if _copy_inputs not in network._forward_pre_hooks.values():
        network.register_forward_pre_hook(_copy_inputs, prepend=True)


def _copy_inputs(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in inputs)

"""What a device could do: its rates of arithmetic and of memory, and what one training step asks of both."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from models.execution.operator_mode import OperatorMode
from search.judge.training_step import mixed_precision


class Work(NamedTuple):
    """Of one training step."""

    operations: float
    """Floating-point operations of convolutions and matrix products, two for a multiply-add."""
    bytes: float
    """Read and written if every operator reads its inputs and writes its outputs once."""


class Traffic(OperatorMode):
    """Adds up the bytes that operators read and write while it lasts; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [leaf for leaf in tree_leaves([args, kwargs, results]) if isinstance(leaf, Tensor)]
            self.bytes += sum(tensor.nbytes for tensor in tensors)
        return results


def best_seconds(run: Callable[[], object], device: torch.device, rounds: int = 5) -> float:
    """The least time of a call."""
    best = float("inf")
    for _ in range(rounds):
        wait_for(device)
        start = time.perf_counter()
        run()
        wait_for(device)
        best = min(best, time.perf_counter() - start)
    return best


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def operation_rate(device: torch.device) -> float:
    """Operations per second of a large matrix product at the precision of fine-tuning."""
    size = 8192 if device.type == "cuda" else 1536
    dtype = torch.bfloat16 if mixed_precision(device)._enabled else torch.float32
    a = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / best_seconds(lambda: a @ a, device)


def memory_rate(device: torch.device) -> float:
    """Bytes per second that a large copy reads and writes."""
    source = torch.empty(2**30 if device.type == "cuda" else 2**27, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    return 2 * source.nbytes / best_seconds(lambda: target.copy_(source), device)


def most_steps(work: Work, device: torch.device) -> float:
    """Steps per second at which arithmetic or memory would be the limit, whichever comes first."""
    return 1 / max(work.operations / operation_rate(device), work.bytes / memory_rate(device))

"""A stand-in for CUDA graphs on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from models.execution.operator_mode import OperatorMode


class OperatorGraph(OperatorMode):
    """A CUDA graph for the CPU: what is done as it records is undone, and each replay does it again without Python."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.undo: list[tuple[Tensor, Tensor]] = []
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        before = [(leaf, leaf.clone()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        results = func(*args, **kwargs)
        for leaf, value in before:
            if not torch.equal(leaf, value):
                self.undo.append((leaf, value))
        self.calls.append((func, args, kwargs, results))
        return results

    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, results in self.calls:
            given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            inputs = {leaf.untyped_storage().data_ptr() for leaf in given}
            with torch._C._AutoDispatchBelowAutograd():
                again = tree_leaves(func(*args, **kwargs))
            for result, new in zip(tree_leaves(results), again, strict=True):
                if isinstance(result, Tensor) and result.untyped_storage().data_ptr() not in inputs:
                    result.copy_(new)


def replace_cuda_graphs(monkeypatch: pytest.MonkeyPatch) -> list[OperatorGraph]:
    """Streams that are none, and graphs of operators."""
    made: list[OperatorGraph] = []

    def make_graph() -> OperatorGraph:
        made.append(OperatorGraph())
        return made[-1]

    @contextmanager
    def record(graph: OperatorGraph, stream: Any, capture_error_mode: str) -> Iterator[None]:
        try:
            with graph:
                yield
        finally:
            for tensor, value in reversed(graph.undo):
                tensor.data.copy_(value)

    class Stream:
        def __init__(self, device: Any = None) -> None: ...
        def wait_stream(self, other: Any) -> None: ...

    @contextmanager
    def on_stream(stream: Stream) -> Iterator[None]:
        yield

    for name, fake in {"CUDAGraph": make_graph, "graph": record, "Stream": Stream, "stream": on_stream,
                       "current_stream": Stream}.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, fake)
    return made

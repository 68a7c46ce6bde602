"""The backward pass, around a fault of oneDNN; whatever trains or calibrates calls `run_backward`.

A network that takes gradients in its forward pass (a gradient penalty, `torch.func.grad`) needs a `ForwardGuard` too.

oneDNN #6035 (in torch 2.14.1 and 2.15.0): the weight gradient of a strided 1×1 convolution in channels_last whose input
channels are fewer than its kernel's block (8 with AVX2, 16 with AVX-512) is written past a buffer: wrong gradients, or
a crash. Pruned networks have such layers all the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from models.execution.operator_mode import OperatorMode

_LARGEST_BLOCK = 16  # channels that oneDNN's widest kernels (AVX-512) take at a time
_CONVOLUTIONS = ("ConvolutionBackward0", "ConvolutionBackward1")  # aten `convolution`; a trace has `_convolution`
_BACKWARD = torch.ops.aten.convolution_backward.default


def run_backward(loss: Tensor) -> None:
    """`loss.backward()` with right gradients on every processor.

    Only the faulty convolutions are computed otherwise, so that networks without any lose no time. Which there are is
    read off the graph of every loss anew: it sees `functional.conv2d` and networks that change from batch to batch.
    """
    if not loss.is_cpu:  # oneDNN computes on the CPU alone
        loss.backward()
        return
    nodes = list(_graph_nodes(loss))
    for node in nodes:
        if _may_be_faulty(node):
            _guard_node(node)
    # A node that is none of torch's own (a checkpoint, a user's autograd.Function) may run convolutions within itself.
    with _WithoutStride() if any(map(_is_opaque, nodes)) else nullcontext():
        loss.backward()


class ForwardGuard:
    """Right gradients within the forward passes of one network that is being trained.

    The mode slows every operator, so it stays only for a network that took a convolution's gradient in its first pass.
    """

    def __init__(self) -> None:
        self._needed = True

    @contextmanager
    def forward(self, device: torch.device) -> Iterator[None]:
        """Around a forward pass on that device."""
        if not self._needed or device.type != "cpu":
            yield
            return
        mode = _WithoutStride()
        with mode:
            yield
        self._needed = mode.met_gradients


class _WithoutStride(OperatorMode):
    """Computes the faulty convolutions' gradients without a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.met_gradients = False
        """Whether any convolution's gradients were computed under it."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is _BACKWARD:
            self.met_gradients = True
            if _is_faulty(*args):
                return _gradients_without_stride(*args)
        return func(*args, **(kwargs or {}))


def _graph_nodes(loss: Tensor) -> Iterator[Node]:
    """Every node of a loss's autograd graph, once."""
    root = loss.grad_fn
    pending = [] if root is None else [root]
    seen = set(pending)
    while pending:
        node = pending.pop()
        yield node
        for follower, _ in node.next_functions:
            if follower is not None and follower not in seen:
                seen.add(follower)
                pending.append(follower)


def _is_opaque(node: Node) -> bool:
    """Whether a node runs more than its operator: Python code, TorchScript, or a convolution's second derivative."""
    foreign = isinstance(node, torch.autograd.function.BackwardCFunction)
    return foreign or type(node).__name__ in ("CppFunction", "ConvolutionBackwardBackward0")


def _may_be_faulty(node: Any) -> bool:
    """Told without the saved tensors: reading them would make a checkpoint compute its part of the network again."""
    return (
        type(node).__name__ in _CONVOLUTIONS
        and max(node._saved_stride) > 1
        and not any(node._saved_padding)
        and not node._saved_transposed
    )


def _guard_node(node: Node) -> None:
    """Have one node computed under the mode: around the whole backward pass it would slow every operator.

    A node that raises is left without its second hook; torch's engine then restores the thread's modes itself.
    """
    mode = _WithoutStride()

    def enter(gradients: Any) -> None:
        mode.__enter__()

    def leave(results: Any, gradients: Any) -> None:
        mode.__exit__(None, None, None)

    node.register_prehook(enter)
    node.register_hook(leave)


def _is_faulty(
    gradient: Tensor, inputs: Tensor, weight: Tensor, bias: Any, stride: list[int], padding: list[int],
    dilation: list[int], transposed: bool, output_padding: list[int], groups: int, wanted: list[bool],
) -> bool:  # fmt: skip
    """Whatever the layout: torch chooses oneDNN's by strides that say little where a dimension is 1."""
    pointwise = all(size == 1 for size in weight.shape[2:]) and not any(padding) and not transposed
    return inputs.is_cpu and pointwise and max(stride) > 1 and weight.shape[1] < _LARGEST_BLOCK and wanted[1]


def _gradients_without_stride(
    gradient: Tensor, inputs: Tensor, weight: Tensor, bias: Any, stride: list[int], padding: list[int],
    dilation: list[int], transposed: bool, output_padding: list[int], groups: int, wanted: list[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Of a 1×1 convolution: it sees only every so many pixels, and the others' gradient is zero."""
    steps = [stride[0]] * (inputs.dim() - 2) if len(stride) == 1 else stride
    seen: tuple[Any, ...] = (..., *(slice(None, None, step) for step in steps))
    by_inputs, by_weight, by_bias = _BACKWARD(
        gradient, inputs[seen], weight, bias, [1] * len(stride), padding, dilation, transposed, output_padding, groups,
        wanted,
    )  # fmt: skip
    if by_inputs is not None:
        by_all_inputs = torch.zeros_like(inputs)
        by_all_inputs[seen] = by_inputs
        by_inputs = by_all_inputs
    return by_inputs, by_weight, by_bias

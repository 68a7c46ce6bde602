"""A strided 1×1 convolution of 5 channels, wrapped as networks do it, against float64; run in a process of its own.

python wrapped_convolutions.py THREADS
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from models.execution.gradients import ForwardGuard, run_backward

ROUNDS = 20  # a write past a buffer does not end the process at once


class Halved(torch.autograd.Function):
    """Half of a convolution, whose backward pass runs another."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor) -> Tensor:
        context.save_for_backward(x, weight)
        return 0.5 * plain(x, weight)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        leaves = [tensor.detach().requires_grad_() for tensor in context.saved_tensors]
        with torch.enable_grad():
            output = 0.5 * plain(*leaves)
        return torch.autograd.grad(output, leaves, gradients[0])


def plain(x: Tensor, weight: Tensor) -> Tensor:
    return functional.conv2d(x, weight, stride=2)


def penalised(x: Tensor, weight: Tensor) -> Tensor:
    """A forward pass that takes gradients, and is differentiated through them."""
    output = plain(x, weight)
    (by_weight,) = torch.autograd.grad(output.square().sum(), weight, create_graph=True)
    return output + 1e-3 * by_weight.sum()


def transformed(x: Tensor, weight: Tensor) -> Tensor:
    """The same by `torch.func`."""
    by_weight = torch.func.grad(lambda leaf: plain(x, leaf).square().sum())(weight)
    return plain(x, weight) + 1e-3 * by_weight.sum()


def gradients(function: Callable[..., Tensor], x: Tensor, weight: Tensor, direction: Tensor) -> list[Tensor]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (x, weight)]
    with ForwardGuard().forward(x.device):
        loss = (function(*leaves) * direction.to(x.dtype)).sum()
    run_backward(loss)
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


def main() -> None:
    warnings.simplefilter("ignore")  # torch.jit.trace is deprecated; networks that were traced are not gone
    torch.set_num_threads(int(sys.argv[1]))
    torch.manual_seed(0)
    x, weight = torch.randn(64, 5, 8, 8), torch.randn(10, 5, 1, 1)
    wrapped: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
        "functional": (plain, plain),
        "own function": (Halved.apply, lambda *leaves: 0.5 * plain(*leaves)),
        "reentrant checkpoint": (lambda *leaves: checkpoint(plain, *leaves, use_reentrant=True), plain),
        "checkpoint": (lambda *leaves: checkpoint(plain, *leaves, use_reentrant=False), plain),
        "trace": (torch.jit.trace(plain, (x, weight)), plain),
        "penalty": (penalised, penalised),
        "transformed": (transformed, penalised),
    }
    for name, (function, exact_function) in wrapped.items():
        print(name, flush=True)
        for _ in range(ROUNDS):
            x, weight, direction = torch.randn_like(x), torch.randn_like(weight), torch.randn(64, 10, 4, 4)
            own = gradients(function, x.contiguous(memory_format=torch.channels_last), weight, direction)
            exact = gradients(exact_function, x.double(), weight.double(), direction)
            if not all((a - b).abs().max() < 1e-3 * b.abs().max() for a, b in zip(own, exact, strict=True)):
                print("wrong gradients", flush=True)


if __name__ == "__main__":
    main()

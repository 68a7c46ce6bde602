"""Gradients of convolutions over a grid against float64, which oneDNN does not compute; run in a process of its own.

    python convolution_grid.py THREADS [OUTPUTS] [INPUTS]

The widths are comma-separated. Each case is printed before it runs, so that the last line names what crashed; what is
wrong with it follows.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from models.execution.gradients import run_backward

# Of the largest entry. The fault's error was 0.02 to 1.6; rounding in float32 reaches 2e-4 where a sum cancels.
TOLERANCE = 1e-3
LAYOUTS = (torch.contiguous_format, torch.channels_last)
# (batch, height): divisible by all strides, where oneDNN packs the pixels it needs into the buffer that it overruns;
# AVX-512 does so on large images alone. The last has an edge that no stride divides.
SHAPES = ((33, 12), (1, 54), (3, 7))


class Convolution(NamedTuple):
    """One point of the grid."""

    kernel: int
    stride: tuple[int, int]
    inputs: int
    outputs: int
    groups: int
    shape: tuple[int, int]


def grid(inputs: list[int], outputs: list[int]) -> Iterator[Convolution]:
    """Ungrouped convolutions of all widths, then grouped ones: halves, depthwise, and depthwise with a multiplier."""
    strides = ((1, 1), (2, 2), (3, 3), (1, 2))
    for kernel, stride, shape in itertools.product((1, 3), strides, SHAPES):
        for given, wanted in itertools.product(inputs, outputs):
            yield Convolution(kernel, stride, given, wanted, 1, shape)
        for width in inputs:
            yield Convolution(kernel, stride, width, 2 * width, width, shape)
            yield Convolution(kernel, stride, 2 * width, 6, 2, shape)


def gradients(
    case: Convolution, x: Tensor, weight: Tensor, bias: Tensor, direction: Tensor | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """The output and the gradients by input, weight and bias, and the direction that the output was pulled in."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (x, weight, bias)]
    output = functional.conv2d(*leaves, stride=case.stride, padding=case.kernel // 2, groups=case.groups)
    direction = torch.randn_like(output) if direction is None else direction.to(output.dtype)
    run_backward((output * direction).sum())
    results = {"output": output.detach()}
    for name, leaf in zip(("input", "weight", "bias"), leaves, strict=True):
        assert leaf.grad is not None
        results[name] = leaf.grad
    return results, direction


def wrong_gradients(case: Convolution) -> list[str]:
    """What is further from float64 than rounding, in either layout."""
    batch, size = case.shape
    x = torch.randn(batch, case.inputs, size, size)
    weight = torch.randn(case.outputs, case.inputs // case.groups, case.kernel, case.kernel)
    bias = torch.randn(case.outputs)
    exact, direction = gradients(case, x.double(), weight.double(), bias.double())
    wrong = []
    for layout in LAYOUTS:
        own, _ = gradients(
            case, x.contiguous(memory_format=layout), weight.contiguous(memory_format=layout), bias, direction
        )
        for name, expected in exact.items():
            error = float((own[name] - expected).abs().max() / expected.abs().max())
            if not error < TOLERANCE:
                wrong.append(f"wrong {name} by {error:.2g} in {layout}")
    return wrong


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    widths = [list(map(int, text.split(","))) for text in sys.argv[2:]]
    outputs = widths[0] if widths else [3, 10, 17]
    inputs = widths[1] if len(widths) > 1 else [1, 2, 5, 7, 8, 9, 15, 16, 17]
    torch.manual_seed(0)
    for case in grid(inputs, outputs):
        print(case, flush=True)
        for line in wrong_gradients(case):
            print(line, flush=True)


if __name__ == "__main__":
    main()

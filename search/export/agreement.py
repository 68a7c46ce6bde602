"""Whether a deployed form computes what the fine-tuned network does, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from models.errors import UserError
from models.execution.inputs import Inputs
from models.execution.tensor_leaves import output_leaves
from search.latency.timing import Forward

TOLERANCE = 1e-4  # of the outputs' largest magnitude
TRIAL_BATCHES = (1, 2, 61, 64)  # a single image, and sizes that no batch in the program's making had


@torch.no_grad()
def output_difference(run: Forward, network: nn.Module, inputs: Inputs, *, any_batch: bool = True) -> float:
    """The largest difference to the network's outputs, tensor by tensor, over batches of several sizes.

    Relative to the tensor's largest magnitude; of integers and booleans, the share that differs. Infinite where the
    shapes differ.

    Args:
        run: the exported form.
        network: the fine-tuned network on the CPU, in evaluation mode.
        inputs: any number of them, on the CPU.
        any_batch: they are given in batches, not one by one.
    """
    worst = 0.0
    for batch in trial_batches(inputs, TRIAL_BATCHES if any_batch else (1,)):
        expected, outputs = output_leaves(batch.clone()(network)), run(batch)
        if [output.shape for output in outputs] != [wanted.shape for wanted in expected]:
            return math.inf
        worst = max(worst, *map(_tensor_difference, outputs, expected))
    return worst


def _tensor_difference(output: Tensor, wanted: Tensor) -> float:
    if not wanted.numel():
        return 0.0
    if not wanted.is_floating_point():
        return float((output != wanted).float().mean())
    # 1e-30: a network whose outputs are all zero agrees with one that gives the same, and divides by nothing.
    return float((output.float() - wanted.float()).abs().max() / wanted.float().abs().max().clamp(min=1e-30))


def trial_batches(inputs: Inputs, sizes: Sequence[int] = TRIAL_BATCHES) -> Iterator[Inputs]:
    """All inputs, in batches of sizes that differ."""
    start = 0
    while start < len(inputs):
        for size in sizes:
            if start < len(inputs):
                yield inputs.between(start, start + size)
                start += size


def check_agreement(what: str, difference: float) -> None:
    """UserError if an exported form does not compute what the network does."""
    if not difference <= TOLERANCE:
        raise UserError(
            f"{what} differs from the fine-tuned network by {difference:.2g} of its largest output on test images, "
            f"more than {TOLERANCE:g}; leave that format out and report the network"
        )

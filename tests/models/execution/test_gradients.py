"""Gradients of convolutions against float64, on whatever processor this is and as if it had AVX2 alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from processors import INSTRUCTIONS, run_script, wrong_cases
from torch.nn import functional
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from models.execution.gradients import run_backward


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_convolutions_have_the_gradients_of_float64(instructions: str | None, threads: str) -> None:
    lines = run_script(Path(__file__).with_name("convolution_grid.py"), threads, instructions=instructions)
    assert sum(line.startswith("Convolution(") for line in lines) > 1000
    assert wrong_cases(lines) == []


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_convolutions_within_other_nodes_too(instructions: str | None, threads: str) -> None:
    """Functional, in checkpoints, in a function with a backward of its own, in a trace, in gradients of gradients."""
    lines = run_script(Path(__file__).with_name("wrapped_convolutions.py"), threads, instructions=instructions)
    assert [line for line in lines if not line.startswith("wrong")] == [
        "functional", "own function", "reentrant checkpoint", "checkpoint", "trace", "penalty", "transformed"
    ]  # fmt: skip
    assert wrong_cases(lines) == []


def test_a_backward_pass_that_fails_leaves_no_mode_behind() -> None:
    def unpack(packed: torch.Tensor) -> torch.Tensor:
        raise MemoryError("no room")

    weight = torch.randn(3, 2, 1, 1, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
        loss = functional.conv2d(torch.randn(2, 2, 4, 4), weight, stride=2).sum()
    with pytest.raises(MemoryError, match="no room"):
        run_backward(loss)
    assert _get_current_dispatch_mode_stack() == []

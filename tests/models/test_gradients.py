"""Gradients of convolutions against float64, on whatever processor this is and as if it had AVX2 alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from processors import INSTRUCTIONS, run_script, wrong_cases


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
    """Functional, in checkpoints of both kinds, in a function with a backward of its own, in a trace."""
    lines = run_script(Path(__file__).with_name("wrapped_convolutions.py"), threads, instructions=instructions)
    assert [line for line in lines if not line.startswith("wrong")] == [
        "functional", "own function", "reentrant checkpoint", "checkpoint", "trace"
    ]  # fmt: skip
    assert wrong_cases(lines) == []

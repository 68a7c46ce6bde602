"""Whatever trains or calibrates does so with right gradients, on this processor and as if it had AVX2 alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from processors import INSTRUCTIONS, run_script, wrong_cases

from methods.registry import methods


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_every_method_trains_and_calibrates_as_in_float64(instructions: str | None, threads: str) -> None:
    lines = run_script(Path(__file__).with_name("narrow_training.py"), threads, instructions=instructions)
    assert set(lines) >= {f"{work} {name}" for work in ("train", "calibrate") for name in methods()}
    assert wrong_cases(lines) == []

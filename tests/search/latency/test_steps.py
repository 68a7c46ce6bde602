"""Steps of kernels that are found again from times by a formula."""

from __future__ import annotations

import math

import numpy as np
import pytest

from search.allocation.constraints import is_on_step
from search.kit.layer_points import SCAN_OFFSETS
from search.latency.steps import Steps, find_steps, round_up


def scan_of(step: int, align: int, end: int, slow: float = 2.0, noise: float = 0.0) -> dict[int, float]:
    rng = np.random.default_rng(0)
    widths = [end + offset for offset in SCAN_OFFSETS if end + offset >= 16]
    return {
        width: math.ceil(width / step) * step * (slow if width % align else 1.0) * (1 + noise * rng.uniform(-1, 1))
        for width in widths
    }


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize(("step", "align"), [(16, 4), (16, 1), (8, 8), (8, 2), (32, 1), (4, 4), (1, 1)])
def test_a_formula_is_found_again(step: int, align: int, noise: float) -> None:
    assert find_steps([scan_of(step, align, 64, noise=noise)]) == Steps(step, align)


def test_narrow_layers_show_steps_too() -> None:
    assert find_steps([scan_of(16, 4, 32, noise=0.02)]) == Steps(16, 4)
    assert find_steps([scan_of(8, 1, 32, noise=0.02)]) == Steps(8, 1)


def test_several_layers_agree_on_the_finest_step_and_the_coarsest_alignment() -> None:
    assert find_steps([scan_of(16, 1, 32), scan_of(8, 1, 64), scan_of(16, 4, 64)]) == Steps(8, 4)


def test_without_scans_there_are_no_steps() -> None:
    assert find_steps([]) == Steps(1, 1)


@pytest.mark.parametrize(("width", "step", "on"), [(32, 16, True), (24, 16, False), (8, 16, True), (6, 16, False),
                                                   (1, 16, True), (0, 16, False), (48, 16, True)])  # fmt: skip
def test_multiples_of_a_step_and_its_halves(width: int, step: int, on: bool) -> None:
    assert is_on_step(width, step) is on


def test_widths_above_a_step_are_rounded_up() -> None:
    assert round_up(np.array([3.0, 16.0, 17.0, 40.0]), 16).tolist() == [3.0, 16.0, 32.0, 48.0]

"""Figures of tables as people read them, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.results.figure_text import percent_text, points_text, shorten_middle, si_text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (40_813_184, "40.8 M"), (125_485_696, "125.5 M"), (9_999_999, "10.0 M"),
     (4_089_184_256, "4.09 G"), (pd.NA, ""), (None, "")],
)  # fmt: skip
def test_si(value: int | None, text: str) -> None:
    assert si_text(value) == text


def test_si_with_a_unit() -> None:
    assert [si_text(512, "B"), si_text(1_089_896, "B")] == ["512 B", "1.09 MB"]


def test_percent_and_points() -> None:
    assert [percent_text(0.9173), percent_text(None)] == ["91.73", ""]
    assert [points_text(-0.0071), points_text(0.0071), points_text(np.nan)] == ["−0.71", "+0.71", ""]


@given(st.text(max_size=40), st.integers(3, 30))
def test_shortened_text_keeps_both_ends(text: str, width: int) -> None:
    halves = [(text[:head], text[-tail:]) for head in range(width) if abs(2 * head - width + 1) <= 1
              and (tail := width - 1 - head)]  # fmt: skip
    assert shorten_middle(text, width) in (
        [text] if len(text) <= width else [f"{head}…{tail}" for head, tail in halves]
    )

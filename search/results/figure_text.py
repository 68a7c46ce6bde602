"""Figures of tables as people read them, and as JSON can say them: a missing one is blank, or null."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from models.tasks.metric import Metric


def format_figure(value: Any, form: str = "{}") -> str:
    """A figure by a format string; blank if missing."""
    return "" if value is None or pd.isna(value) else form.format(value)


def percent_text(share: Any) -> str:
    """0.9173 -> `91.73`."""
    return "" if pd.isna(share) else f"{100 * share:.2f}"


def points_text(difference: Any) -> str:
    """-0.0071 -> `−0.71`, with a true minus sign."""
    return "" if pd.isna(difference) else f"{100 * difference:+.2f}".replace("-", "−")


def score_text(value: Any, metric: Metric) -> str:
    """A metric's value without its unit; blank if missing."""
    return "" if pd.isna(value) else metric.number_text(value)


def delta_text(difference: Any, metric: Metric) -> str:
    """A difference of two values, signed; blank if missing."""
    return "" if pd.isna(difference) else metric.delta_text(difference)


def si_text(value: Any, unit: str = "") -> str:
    """41_000_000 -> `41.0 M`, a figure with the prefix of its unit."""
    if pd.isna(value):
        return ""
    for prefix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            # Three digits: from 9.995 on two decimals would round to 10.00.
            return f"{value / size:.{2 if value < 9.995 * size else 1}f} {prefix}{unit}"
    return f"{value:.0f} {unit}".strip()


def shorten_middle(text: str, width: int) -> str:
    """At most `width` characters, the middle left out: both ends of a layer's name tell it apart."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2  # the ellipsis takes one
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def plain_values(data: Any) -> Any:
    """The same data as JSON can say it: tables' figures as Python's own, None for one that is missing."""
    if isinstance(data, np.generic):
        data = data.item()
    if isinstance(data, float):  # JSON knows neither NaN nor infinity
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(key): plain_values(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [plain_values(value) for value in data]
    return None if data is pd.NA else data

"""Tables as CSV that no spreadsheet runs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from search.files.atomic import atomic_write


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write `frame` as CSV, whole or not at all.

    A text cell that a spreadsheet would run as a formula (it begins with `= + - @` or a control character, and is
    not a number) gets an apostrophe in front, the spreadsheet's own mark for text; figures are left as they are.
    """
    safe = frame.copy()
    for column in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[column]):
            safe[column] = safe[column].map(inert_cell, na_action="ignore")
    atomic_write(path, safe.to_csv(index=False, lineterminator="\n"))


def inert_cell(cell: object) -> object:
    """A table cell that no spreadsheet runs as a formula."""
    if not isinstance(cell, str) or not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return cell
    try:  # "-0.5" begins like a formula and is a figure
        float(cell)
    except ValueError:
        return "'" + cell
    return cell

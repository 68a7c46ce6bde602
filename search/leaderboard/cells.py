"""What stands in the cells of a leaderboard, the same in a terminal, in files and on its page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from search.allocation.targets import beyond_flops
from search.leaderboard.board import Board
from search.leaderboard.reported import Reported
from search.results.figure_text import format_figure, percent, points, si
from search.results.tables import records

Line = Mapping[str, Any]
# Format strings of figures; a missing one is blank.
KEPT, TIMES, MILLISECONDS, WHOLE, NUMBER = "{:.4f}", "{:.2f}×", "{:.3g}", "{:,.0f}", "{:g}"
REPORTED_NOTE = "reported by papers: not measured here, not ranked"
REPORTED_HEADINGS = ("method", "top-1, %", "dense, %", "Δ, points", "kept FLOPs", "top-5, %", "smaller by", "source")


class Field(NamedTuple):
    """A column as people read it."""

    heading: str
    text: Callable[[Line], str]
    right: bool = True


def accuracy_text(line: Line) -> str:
    """`91.46 ± 0.12 (3)`: mean, standard deviation over seeds, how many."""
    if pd.isna(line["accuracy"]):
        return ""
    spread = "" if pd.isna(line["std"]) else f" ± {percent(line['std'])}"
    return f"{percent(line['accuracy'])}{spread} ({line['n']})"


def method_text(line: Line) -> str:
    """With the options that are not at their default."""
    return f"{line['method']} ({line['options']})" if line["options"] else str(line["method"])


def delta_text(delta_points: Any) -> str:
    """Percentage points against the dense network."""
    return "" if delta_points is None else points(delta_points / 100)


FIELDS = (
    Field("rank", lambda line: format_figure(line["rank"])),
    Field("row", lambda line: line["row"], right=False),
    Field("method", method_text, right=False),
    Field("strategy", lambda line: line["strategy"], right=False),
    Field("test accuracy, %", accuracy_text),
    Field("Δ, points", lambda line: delta_text(line["delta_points"])),
    Field("kept FLOPs", lambda line: format_figure(line["kept_flops"], KEPT)),
    Field("params", lambda line: si(line["params"])),
    Field("smaller by", lambda line: format_figure(line["compression"], TIMES)),
    Field("latency, ms", lambda line: format_figure(line["latency_ms"], MILLISECONDS)),
    Field("tried", lambda line: format_figure(line["searched"])),
    Field("search, s", lambda line: format_figure(line["search_seconds"], WHOLE)),
    Field("epochs", lambda line: format_figure(line["epochs"], NUMBER)),
)


def band_title(lines: Sequence[Line]) -> str:
    """`target 0.5: at most 0.5000 of the dense FLOPs`."""
    targets = ", ".join(dict.fromkeys(line["target"] for line in lines))
    if beyond_flops(lines[0]["target"]):
        return f"target {targets}"
    return f"target {targets}: at most {lines[0]['band']:.4f} of the dense FLOPs"


def rows_by_band(frame: pd.DataFrame) -> list[list[dict[str, Any]]]:
    """The rows of each band, bands and rows in the table's order."""
    bands: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for line in records(frame):
        bands.setdefault((line["band"], beyond_flops(line["target"])), []).append(line)
    return list(bands.values())


def dense_text(board: Board) -> str:
    """The dense network in one line."""
    dense = board.dense
    if dense is None:
        return ""
    tested = "" if dense.test_accuracy is None else f"{percent(dense.test_accuracy)} % on the test set, "
    return f"dense: {tested}{si(dense.flops)} FLOPs, {si(dense.params)} parameters, {si(dense.bytes, 'B')}"


def reported_cells(line: Reported) -> tuple[str, ...]:
    """In the order of `REPORTED_HEADINGS`."""
    accuracies = [format_figure(None if share is None else 100 * share, "{:.2f}")
                  for share in (line.accuracy, line.dense_accuracy, line.top5)]  # fmt: skip
    kept, smaller = format_figure(line.kept_flops, "{:.3f}"), format_figure(line.compression, TIMES)
    return (line.method, *accuracies[:2], delta_text(line.delta_points), kept, accuracies[2], smaller, line.source)


def mean_rank_cells(frame: pd.DataFrame) -> list[list[str]]:
    """Headings, then the lines of `mean_ranks` as text."""
    tasks = list(frame.columns[6:])
    headings = ["kept FLOPs", "method", "strategy", "epochs", "mean rank", *(f"rank, {name}" for name in tasks)]
    cells = [
        [
            format_figure(line["band"], KEPT),
            method_text(line),
            line["strategy"],
            format_figure(line["epochs"], NUMBER),
            format_figure(line["mean_rank"], NUMBER),
            *(format_figure(line[name]) for name in tasks),
        ]
        for line in records(frame)
    ]
    return [headings, *cells]

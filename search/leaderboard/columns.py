"""The columns of leaderboards and their titles, the same in a terminal, in files and on the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from models.tasks.metric import ACCURACY, Metric
from search.allocation.targets import beyond_flops
from search.leaderboard.board import Board
from search.report.rendering import Column, Record, figure_column, text_column
from search.results.figure_text import percent_text, points_text, si_text
from search.results.tables import table_records

REPORTED_NOTE = "reported by papers: not measured here, not ranked"


def score_columns(metric: Metric) -> tuple[Column, Column]:
    """The score on the test set, `91.46 ± 0.12 (3)` (mean, standard deviation over seeds, how many), and its change."""

    def tested_text(board_row: Record) -> str:
        if pd.isna(board_row["score"]):
            return ""
        spread = "" if pd.isna(board_row["std"]) else f" ± {metric.spread_text(board_row['std'])}"
        return f"{metric.number_text(board_row['score'])}{spread} ({board_row['n']})"

    change = figure_column(metric.delta_heading, "delta", metric.delta_text)
    return Column(f"test {metric.heading}", tested_text, "score", "figure"), change


def method_text(board_row: Record) -> str:
    """With the options that are not at their default."""
    return f"{board_row['method']} ({board_row['options']})" if board_row["options"] else str(board_row["method"])


RANK = figure_column("rank", "rank")
ROW = text_column("row")
METHOD = Column("method", method_text)
STRATEGY = text_column("strategy")
KEPT = figure_column("kept FLOPs", "kept_flops", "{:.4f}".format)
PARAMS = figure_column("params", "params", si_text)
SMALLER = figure_column("smaller by", "compression", "{:.2f}×".format)
LATENCY = figure_column("latency, ms", "latency_ms", "{:.3g}".format)
EPOCHS = figure_column("epochs", "epochs", "{:g}".format)
EFFORT = (
    figure_column("tried", "searched"),
    figure_column("search, s", "search_seconds", "{:,.0f}".format),
    EPOCHS,
)
# The page has room for more, and shortens names; its columns of latencies are shown where one was measured.
PAGE_NAMES = (RANK, *(column.with_short_text() for column in (ROW, text_column("target"), METHOD, STRATEGY)))
PAGE_SIZES = (
    figure_column("asked", "kept_asked", "{:.4f}".format),
    KEPT._replace(heading="kept"),
    PARAMS,
    figure_column("size", "bytes", lambda size: si_text(size, "B")),
    SMALLER,
)
PAGE_LATENCIES = (
    LATENCY,
    figure_column("dense, ms", "dense_latency_ms", "{:.3g}".format),
    text_column("latency_device", "latency on", "long"),
)
REPORTED_COLUMNS = (
    text_column("method"),
    figure_column("top-1, %", "accuracy", percent_text),
    figure_column("dense, %", "dense_accuracy", percent_text),
    figure_column("Δ, points", "delta_points", lambda points: points_text(points / 100)),
    figure_column("kept FLOPs", "kept_flops", "{:.3f}".format),
    figure_column("top-5, %", "top5", percent_text),
    SMALLER,
    text_column("source", kind="long"),
)


def text_columns(metric: Metric) -> list[Column]:
    """Of a terminal and of files of text."""
    return [RANK, ROW, METHOD, STRATEGY, *score_columns(metric), KEPT, PARAMS, SMALLER, LATENCY, *EFFORT]


def page_figures(metric: Metric) -> list[Column]:
    """Of the page, behind the names."""
    heading = f"dense, {metric.unit}" if metric.unit else "dense"
    return [*score_columns(metric), figure_column(heading, "dense_score", metric.number_text), *PAGE_SIZES]


def mean_rank_columns(frame: pd.DataFrame) -> list[Column]:
    """The columns of `mean_ranks`; the tasks stand behind the mean."""
    tasks = frame.columns[list(frame.columns).index("mean_rank") + 1 :]
    return [
        figure_column("kept FLOPs", "band", "{:.4f}".format),
        METHOD,
        STRATEGY,
        EPOCHS,
        figure_column("mean rank", "mean_rank", "{:g}".format),
        *(figure_column(f"rank, {name}", name) for name in tasks),
    ]


def band_title(board_rows: Sequence[Record]) -> str:
    """`target 0.5: at most 0.5000 of the dense FLOPs`."""
    targets = ", ".join(dict.fromkeys(board_row["target"] for board_row in board_rows))
    if beyond_flops(board_rows[0]["target"]):
        return f"target {targets}"
    return f"target {targets}: at most {board_rows[0]['band']:.4f} of the dense FLOPs"


def rows_by_band(frame: pd.DataFrame) -> list[list[dict[str, Any]]]:
    """The rows of each band, bands and rows in the table's order."""
    bands: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for board_row in table_records(frame):
        bands.setdefault((board_row["band"], beyond_flops(board_row["target"])), []).append(board_row)
    return list(bands.values())


def dense_text(board: Board) -> str:
    """The dense network in one line."""
    dense = board.dense
    if dense is None:
        return ""
    tested = "" if dense.test_score is None else f"{_test_text(dense.test_score, dense.metric)} on the test set, "
    return (
        f"dense: {tested}{si_text(dense.flops)} FLOPs, {si_text(dense.params)} parameters, {si_text(dense.bytes, 'B')}"
    )


def _test_text(score: float, metric: Metric) -> str:
    number = f"{metric.number_text(score)} {metric.unit}".rstrip()
    direction = " (lower is better)" if metric.lower_is_better else ""
    return number if metric == ACCURACY else f"{metric.name} {number}{direction}"

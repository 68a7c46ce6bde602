"""`leaderboard.html`: what `templates/leaderboard.html` shows; the fronts of all methods, then every row."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pandas as pd

from search.leaderboard.board import Board
from search.leaderboard.columns import (
    EFFORT,
    PAGE_LATENCIES,
    PAGE_NAMES,
    REPORTED_COLUMNS,
    REPORTED_NOTE,
    dense_text,
    mean_rank_columns,
    method_text,
    page_figures,
)
from search.leaderboard.views import mean_ranks_by_metric, task_names
from search.ranking import LEVEL
from search.report.figures import Figure, Styles, finals_figure, group_styles
from search.report.rendering import Plot, Record, Table, make_table, render_page
from search.results.figure_text import format_figure, shorten_middle
from search.results.tables import table_records


def page_html(boards: Sequence[Board], *, created: str | None = None, with_reported: bool = False) -> str:
    """The whole page.

    Args:
        created: when; None takes now.
    """
    names = task_names(boards)
    styles = group_styles(pd.concat([board.frame for board in boards]))
    return render_page(
        "leaderboard/templates/leaderboard.html",
        title=f"Leaderboard: {names[0]}" if len(names) == 1 else f"Leaderboard of {len(names)} tasks",
        created=created or time.strftime("%Y-%m-%d %H:%M %Z"),
        mean_ranks=[
            (ranks.title, make_table(f"mean-{index}", mean_rank_columns(ranks.frame), table_records(ranks.frame)))
            for index, ranks in enumerate(mean_ranks_by_metric(boards))
        ],
        tasks=[
            (f"task-{index}", name, _describe_task(board, index, styles, with_reported))
            for index, (board, name) in enumerate(zip(boards, names, strict=True))
        ],
        reported_note=REPORTED_NOTE,
        tie_level=f"{100 * LEVEL:g} %",
    )


def _describe_task(board: Board, index: int, styles: Styles, with_reported: bool) -> dict[str, Any]:
    """What the page shows of one task."""
    figure, frame = front_figure(board, styles), board.frame
    label = f"Kept FLOPs against test {board.metric.name} of every method"
    noted = table_records(frame[frame["score"].notna() & frame["note"].notna()])
    reproducible = table_records(frame[frame["command"].notna()])
    reported = [paper.as_record() for paper in board.reported] if with_reported else []
    return {
        "dense": dense_text(board),
        "fronts": figure and Plot(f"fronts-plot-{index}", label, figure),
        "metric": board.metric,
        "results": _results_table(board, index),
        "notes": [(board_row["row"], shorten_middle(board_row["note"], 300)) for board_row in noted],
        "reported": make_table(f"reported-{index}", REPORTED_COLUMNS, reported) if reported else None,
        "commands": [(_describe_row(board_row), board_row["command"]) for board_row in reproducible],
    }


def _describe_row(board_row: Record) -> str:
    """Which row a command reproduces, and the run that it came from."""
    competitor = f"{method_text(board_row)}, {board_row['strategy']}, target {board_row['target']}"
    return f"{board_row['row']}: {competitor}; run {shorten_middle(board_row['run'], 60)}"


def _results_table(board: Board, index: int) -> Table:
    """Every row; one without a tested finalist has the reason in the place of its figures."""

    def missing_reason(board_row: Record) -> str | None:
        return shorten_middle(format_figure(board_row["note"]), 300) if pd.isna(board_row["score"]) else None

    frame = board.frame
    timed = bool(frame["latency_ms"].notna().any())
    columns = [*PAGE_NAMES, *page_figures(board.metric), *(PAGE_LATENCIES if timed else ()), *EFFORT]
    return make_table(f"board-{index}", columns, table_records(frame), missing_reason, reason_from=len(PAGE_NAMES))


def front_figure(board: Board, styles: Styles) -> Figure | None:
    """Kept FLOPs against test scores, a line for every method and strategy, one standard deviation up and down."""
    if board.dense is None:
        return None
    frame = board.frame.rename(columns={"score": "test_score", "std": "test_std", "n": "seeds", "row": "candidate"})
    bands = frame[frame["band"] > 0].drop_duplicates("band")  # 0: a target that does not speak of FLOPs
    targets = [
        (str(board_row["target"]), round(board_row["band"] * board.dense.flops)) for board_row in table_records(bands)
    ]
    figure = finals_figure(frame.sort_values(["method", "strategy", "kept_flops"]), board.dense, targets, styles)
    if figure is not None:
        for trace in figure["data"]:
            if "error_y" in trace:
                trace |= {"mode": "lines+markers", "line": {"color": trace["marker"]["color"], "width": 1.2}}
                trace["error_y"] = trace["error_y"] | {"color": trace["marker"]["color"]}
    return figure

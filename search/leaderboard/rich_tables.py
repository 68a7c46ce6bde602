"""A leaderboard as rich prints it, on whatever console it is given.

Where a table is wider than the console, names fold and headings wrap; figures never do. If that is not enough, columns
at the right are left out, and named.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from models.errors import printable_text
from models.tasks.metric import Metric
from search.leaderboard.board import Board
from search.leaderboard.columns import (
    KEPT,
    LATENCY,
    REPORTED_COLUMNS,
    REPORTED_NOTE,
    band_title,
    dense_text,
    mean_rank_columns,
    rows_by_band,
    text_columns,
)
from search.leaderboard.views import mean_ranks_by_metric, task_names
from search.ranking import LEVEL
from search.report.rendering import Column, Record
from search.results.figure_text import format_figure
from search.results.tables import table_records

FOLDED_NAME = 12  # columns of a terminal that a name folds down to


def print_boards(boards: Sequence[Board], console: Console, *, with_reported: bool = False) -> None:
    """Every row of every task, band by band, then notes and the runs that rows come from."""
    for board, name in zip(boards, task_names(boards), strict=True):
        _print_line(console, f"{name}    {dense_text(board)}", "bold")
        for band_rows in rows_by_band(board.frame):
            _print_band(band_rows, board.metric, console)
        if with_reported and board.reported:
            papers = [paper.as_record() for paper in board.reported]
            console.print(_make_table(REPORTED_NOTE, REPORTED_COLUMNS, papers, console.width))
        for board_row in table_records(board.frame):
            for remark in filter(None, map(format_figure, (board_row["note"], board_row["latency_device"]))):
                _print_line(console, f"{board_row['row']}  {remark}", "dim")
        _print_runs(board.frame, console)
        console.print()
    for ranks in mean_ranks_by_metric(boards):
        columns = mean_rank_columns(ranks.frame)
        console.print(_make_table(ranks.title, columns, table_records(ranks.frame), console.width))
    for notice in dict.fromkeys(notice for board in boards for notice in board.notices):
        _print_line(console, f"note  {notice}", "yellow")
    tie = f"Equal ranks: seeds do not tell them apart (Welch's t-test, {100 * LEVEL:g} %)."
    _print_line(console, f"{tie} Blank: not measured.", "dim")
    if any(board.frame["command"].notna().any() for board in boards):
        # Commands are long, and there is one a row: in a terminal they would bury the table.
        _print_line(console, "Commands that reproduce rows: `leaderboard --format csv` or `--format html`.", "dim")


def _print_band(band_rows: Sequence[Record], metric: Metric, console: Console) -> None:
    columns = [column for column in text_columns(metric) if column != LATENCY or any(map(column.text, band_rows))]
    fitting = list(columns)
    while fitting[-1] != KEPT and _table_width(_least_width(column, band_rows) for column in fitting) > console.width:
        fitting.pop()
    console.print(_make_table(band_title(band_rows), fitting, band_rows, console.width))
    if len(fitting) < len(columns):
        missing = ", ".join(column.heading.partition(",")[0] for column in columns[len(fitting) :])
        _print_line(console, f"left out, as the terminal is {console.width} wide: {missing}", "dim")


def _print_runs(frame: pd.DataFrame, console: Console) -> None:
    """Where to look for the report and to export from."""
    for run, run_rows in frame[frame["run"].fillna("") != ""].groupby("run", sort=False):
        _print_line(console, f"from run {run}: {', '.join(run_rows['row'])}", "dim")


def _print_line(console: Console, text: str, style: str | None = None) -> None:
    """One line as it is; long ones are left to the terminal to wrap."""
    console.print(Text(printable_text(text)), style=style, soft_wrap=True)


def _make_table(title: str, columns: Sequence[Column], row_records: Sequence[Record], console_width: int) -> Table:
    is_narrow = _table_width(_natural_width(column, row_records) for column in columns) > console_width
    table = Table(title=Text(printable_text(title)), title_justify="left", box=None, pad_edge=False)
    for column in columns:
        is_figure = column.kind == "figure"
        # Rich takes from every column whose width is not fixed.
        width = _least_width(column, row_records) if is_figure and is_narrow else None
        heading = Text(printable_text(column.heading))
        table.add_column(heading, justify="right" if is_figure else "left", width=width, overflow="fold")
    for record in row_records:
        table.add_row(*(Text(printable_text(column.text(record))) for column in columns))
    return table


def _table_width(widths: Iterable[int]) -> int:
    """With two spaces between columns."""
    widths = list(widths)
    return sum(widths) + 2 * (len(widths) - 1)


def _natural_width(column: Column, row_records: Sequence[Record]) -> int:
    texts = (column.heading, *map(column.text, row_records))
    return max(cell_len(printable_text(text)) for text in texts)


def _least_width(column: Column, row_records: Sequence[Record]) -> int:
    """Figures stand whole under headings that wrap between words; names fold."""
    if column.kind != "figure":
        return min(FOLDED_NAME, _natural_width(column, row_records))
    texts = (*column.heading.split(), *map(column.text, row_records))
    return max(cell_len(printable_text(text)) for text in texts)

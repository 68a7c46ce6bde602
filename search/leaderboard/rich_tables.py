"""A leaderboard as rich prints it, on whatever console it is given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from models.errors import printable_text
from search.leaderboard.board import Board
from search.leaderboard.columns import (
    LATENCY,
    REPORTED_COLUMNS,
    REPORTED_NOTE,
    TEXT_COLUMNS,
    band_title,
    dense_text,
    mean_rank_columns,
    rows_by_band,
)
from search.leaderboard.views import mean_ranks, task_names
from search.report.rendering import Column, Record
from search.results.figure_text import format_figure
from search.results.tables import table_records


def print_boards(
    boards: Sequence[Board], console: Console, *, with_reported: bool = False, with_commands: bool = True
) -> None:
    """Everything that is known, band by band, then where each row comes from."""
    for board, name in zip(boards, task_names(boards), strict=True):
        _print_line(console, f"{name}    {dense_text(board)}", "bold")
        for band_rows in rows_by_band(board.frame):
            columns = [column for column in TEXT_COLUMNS if column != LATENCY or any(map(column.text, band_rows))]
            console.print(_make_table(band_title(band_rows), columns, band_rows))
        if with_reported and board.reported:
            papers = (paper.as_record() for paper in board.reported)
            console.print(_make_table(REPORTED_NOTE, REPORTED_COLUMNS, papers))
        for board_row in table_records(board.frame):
            for remark in filter(None, map(format_figure, (board_row["note"], board_row["latency_device"]))):
                _print_line(console, f"{board_row['row']}  {remark}", "dim")
        if with_commands:
            _print_commands(board.frame, console)
        console.print()
    if len(boards) > 1:
        ranks = mean_ranks(boards)
        console.print(_make_table("mean rank over tasks", mean_rank_columns(ranks), table_records(ranks)))
    for notice in dict.fromkeys(notice for board in boards for notice in board.notices):
        _print_line(console, f"note  {notice}", "yellow")
    _print_line(console, "Equal ranks: seeds do not tell them apart (Welch's t-test, 5 %). Blank: not measured.", "dim")


def _print_line(console: Console, line: str, style: str | None = None) -> None:
    """One line as it is; long ones are left to the terminal to wrap, so that commands can be copied."""
    console.print(Text(printable_text(line)), style=style, soft_wrap=True)


def _print_commands(frame: pd.DataFrame, console: Console) -> None:
    """The run of each row, and the command that leads to it."""
    for board_row in table_records(frame[frame["command"].notna()]):
        _print_line(console, f"\n{board_row['row']}  from {board_row['run']}\n{board_row['command']}")


def _make_table(title: str, columns: Sequence[Column], table_records: Iterable[Record]) -> Table:
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    for column in columns:
        heading = Text(printable_text(column.heading))
        table.add_column(heading, justify="right" if column.kind == "figure" else "left", no_wrap=column.kind == "word")
    for record in table_records:
        table.add_row(*(Text(printable_text(column.text(record))) for column in columns))
    return table

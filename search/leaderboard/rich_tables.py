"""A leaderboard as rich prints it, on whatever console it is given."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from models.errors import printable_text
from search.leaderboard.board import Board
from search.leaderboard.cells import (
    FIELDS,
    REPORTED_HEADINGS,
    REPORTED_NOTE,
    Line,
    band_title,
    dense_text,
    mean_rank_cells,
    reported_cells,
    rows_by_band,
)
from search.leaderboard.views import mean_ranks, task_names
from search.results.figure_text import format_figure
from search.results.tables import records

WORDS = ("method", "strategy", "source")  # columns of text, which stands at the left


def print_boards(
    boards: Sequence[Board], console: Console, *, with_reported: bool = False, with_commands: bool = True
) -> None:
    """Everything that is known, band by band, then where each row comes from."""
    for board, name in zip(boards, task_names(boards), strict=True):
        _print_line(console, f"{name}    {dense_text(board)}", "bold")
        for lines in rows_by_band(board.frame):
            console.print(_band_table(lines))
        if with_reported and board.reported:
            console.print(_text_table(REPORTED_NOTE, [REPORTED_HEADINGS, *map(reported_cells, board.reported)]))
        for line in records(board.frame):
            for remark in filter(None, map(format_figure, (line["note"], line["latency_device"]))):
                _print_line(console, f"{line['row']}  {remark}", "dim")
        if with_commands:
            _print_commands(board.frame, console)
        console.print()
    if len(boards) > 1:
        console.print(_text_table("mean rank over tasks", mean_rank_cells(mean_ranks(boards))))
    for notice in dict.fromkeys(notice for board in boards for notice in board.notices):
        _print_line(console, f"note  {notice}", "yellow")
    _print_line(console, "Equal ranks: seeds do not tell them apart (Welch's t-test, 5 %). Blank: not measured.", "dim")


def _print_line(console: Console, line: str, style: str | None = None) -> None:
    """One line as it is; long ones are left to the terminal to wrap, so that commands can be copied."""
    console.print(Text(printable_text(line)), style=style, soft_wrap=True)


def _print_commands(frame: pd.DataFrame, console: Console) -> None:
    """The run of each row, and the command that leads to it."""
    for line in records(frame[frame["command"].notna()]):
        _print_line(console, f"\n{line['row']}  from {line['run']}\n{line['command']}")


def _band_table(lines: Sequence[Line]) -> Table:
    table = Table(title=Text(band_title(lines)), title_justify="left", box=None, pad_edge=False)
    fields = [field for field in FIELDS if field.heading != "latency, ms" or any(map(field.text, lines))]
    for field in fields:
        table.add_column(field.heading, justify="right" if field.right else "left", no_wrap=not field.right)
    for line in lines:
        table.add_row(*(Text(printable_text(field.text(line))) for field in fields))
    return table


def _text_table(title: str, rows: Sequence[Sequence[str]]) -> Table:
    """A table of texts whose first row holds the headings."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in rows[0]:
        table.add_column(Text(printable_text(heading)), justify="left" if heading in WORDS else "right")
    for cells in rows[1:]:
        table.add_row(*(Text(printable_text(cell)) for cell in cells))
    return table

"""Leaderboards as text in every form that a file may have: table, CSV, Markdown, LaTeX, JSON, and a page."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console

from models.errors import unknown_name
from models.tasks.metric import ACCURACY
from search.files.output_file import check_output_file, write_output_file
from search.leaderboard.board import Board
from search.leaderboard.board_rows import TYPES
from search.leaderboard.columns import (
    REPORTED_COLUMNS,
    REPORTED_NOTE,
    band_title,
    dense_text,
    mean_rank_columns,
    rows_by_band,
    text_columns,
)
from search.leaderboard.page import page_html
from search.leaderboard.rich_tables import print_boards
from search.leaderboard.settings import FORMATS
from search.leaderboard.views import mean_ranks_by_metric, task_names
from search.report.rendering import Column, Record, text_column
from search.results.csv_tables import inert_cell
from search.results.figure_text import plain_values
from search.results.markup import escape_latex, escape_markdown
from search.results.metric_columns import outside_names
from search.results.tables import table_records

PIPE_WIDTH = 160  # characters of a table, where output is no terminal


def render_boards(boards: Sequence[Board], form: str, with_reported: bool = False) -> str:
    """Leaderboards as text in one of `FORMATS` but html; UserError for another."""
    if form not in FORMATS or form == "html":
        raise unknown_name("format", form, [name for name in FORMATS if name != "html"])
    if form == "csv":
        return boards_csv(boards, with_reported)
    if form == "md":
        return boards_markdown(boards, with_reported)
    if form == "tex":
        return boards_latex(boards, with_reported)
    if form == "json":
        return json.dumps(boards_record(boards, with_reported), indent=2) + "\n"
    console = Console(file=io.StringIO(), width=PIPE_WIDTH, markup=False, emoji=False, highlight=False)
    with console.capture() as captured:
        print_boards(boards, console, with_reported=with_reported)
    return captured.get()


def write_boards(
    boards: Sequence[Board], path: Path, form: str, with_reported: bool = False, *, force: bool = False
) -> Path:
    """Write leaderboards in one of `FORMATS`; UserError for another, or for a file that would be replaced unasked."""
    check_output_file(path, force=force)
    if form == "html":
        content = page_html(boards, with_reported=with_reported)
    else:
        content = render_boards(boards, form, with_reported)
    write_output_file(path, content, force=force)
    return path


def boards_csv(boards: Sequence[Board], with_reported: bool = False) -> str:
    """Every column of every task; text that a spreadsheet would run is made inert."""
    frames = []
    for board, name in zip(boards, task_names(boards), strict=True):
        names = outside_names(board.metric, TYPES)
        types = {names.get(column, column): kind for column, kind in TYPES.items()}
        columns = ["kind", *types, "source"]
        table_rows = [{**board_row, "task": name, "kind": "measured"} for board_row in table_records(board.named_frame)]
        if with_reported:
            table_rows += [{"kind": "reported", "task": name, **paper.as_record()} for paper in board.reported]
        frames.append(pd.DataFrame(table_rows, columns=columns).astype({"kind": "str", **types}))
    table = pd.concat(frames)
    for column in table.columns:
        if not pd.api.types.is_numeric_dtype(table[column]):
            table[column] = table[column].map(inert_cell, na_action="ignore")
    return table.to_csv(index=False, lineterminator="\n")


def boards_record(boards: Sequence[Board], with_reported: bool = False) -> dict[str, Any]:
    """Tasks with their rows, as JSON; null for what is not known."""
    tasks = []
    for board in boards:
        record: dict[str, Any] = {
            "task": board.task,
            "title": board.title,
            "dense": None if board.dense is None else board.dense.record(),
            "skipped_records": board.skipped,
            "notices": list(board.notices),
            "metric": str(board.metric),
            "rows": [plain_values(board_row) for board_row in table_records(board.named_frame)],
        }
        if with_reported:
            record["reported"] = [paper.as_record() for paper in board.reported]
        tasks.append(record)
    ranked = [
        plain_values(record) | ({} if ranks.metric == ACCURACY else {"metric": str(ranks.metric)})
        for ranks in mean_ranks_by_metric(boards)
        for record in table_records(ranks.frame)
    ]
    return {"tasks": tasks, "mean_ranks": ranked}


def boards_markdown(boards: Sequence[Board], with_reported: bool = False) -> str:
    """A heading a task, a table a band."""
    tables = []
    for title, headings, body in _text_tables(boards, with_reported):
        heading, *rows = [f"| {' | '.join(map(escape_markdown, cells))} |" for cells in [headings, *body]]
        rule = f"|{' --- |' * len(headings)}"
        tables.append("\n".join([escape_markdown(title), "", heading, rule, *rows]))
    return "\n\n".join(tables) + "\n"


def boards_latex(boards: Sequence[Board], with_reported: bool = False) -> str:
    """Tables for the package booktabs."""
    tables = []
    for title, headings, body in _text_tables(boards, with_reported):
        heading, *body_text = [" & ".join(map(escape_latex, cells)) + r" \\" for cells in [headings, *body]]
        tables.append(
            f"\\begin{{table}}\n\\caption{{{escape_latex(title)}}}\n\\begin{{tabular}}{{{'l' * len(headings)}}}\n"
            f"\\toprule\n{heading}\n\\midrule\n" + "\n".join(body_text) + "\n\\bottomrule\n\\end{tabular}\n\\end{table}"
        )
    return "% \\usepackage{booktabs}\n" + "\n\n".join(tables) + "\n"


class _TextTable(NamedTuple):
    title: str
    headings: list[str]
    body: list[list[str]]


def _text_tables(boards: Sequence[Board], with_reported: bool) -> list[_TextTable]:
    """A table a band with the rows' runs and notes, papers' figures, and the mean ranks of several tasks."""

    def add_table(title: str, columns: Sequence[Column], row_records: Iterable[Record]) -> None:
        body = [[column.text(record) for column in columns] for record in row_records]
        tables.append(_TextTable(title, [column.heading for column in columns], body))

    tables = list[_TextTable]()
    for board, name in zip(boards, task_names(boards), strict=True):
        columns = [*text_columns(board.metric), text_column("run"), text_column("note")]
        for band_rows in rows_by_band(board.frame):
            add_table(f"{name}, {band_title(band_rows)} ({dense_text(board)})", columns, band_rows)
        if with_reported and board.reported:
            papers = [paper.as_record() for paper in board.reported]
            add_table(f"{name}, {REPORTED_NOTE}", REPORTED_COLUMNS, papers)
    for ranks in mean_ranks_by_metric(boards):
        add_table(ranks.title, mean_rank_columns(ranks.frame), table_records(ranks.frame))
    return tables

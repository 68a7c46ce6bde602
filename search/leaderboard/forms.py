"""Leaderboards as text in every form that a file may have: table, CSV, Markdown, LaTeX, JSON, and a page."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console

from models.errors import unknown_name
from search.files.output_file import check_output_file, write_output_file
from search.leaderboard.board import TYPES, Board
from search.leaderboard.cells import (
    FIELDS,
    REPORTED_HEADINGS,
    REPORTED_NOTE,
    Field,
    band_title,
    dense_text,
    mean_rank_cells,
    reported_cells,
    rows_by_band,
)
from search.leaderboard.page import page_html
from search.leaderboard.reported import Reported
from search.leaderboard.rich_tables import print_boards
from search.leaderboard.views import mean_ranks, task_names
from search.results.figure_text import format_figure, plain_values
from search.results.markup import latex, markdown
from search.results.tables import inert, records

FORMATS = ("table", "csv", "md", "tex", "html", "json")
PIPE_WIDTH = 160  # characters of a table, where output is no terminal


def check_format(form: str) -> None:
    """UserError unless it is one of `FORMATS`."""
    if form not in FORMATS:
        raise unknown_name("format", form, FORMATS)


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
        lines = [{**line, "task": name, "kind": "measured"} for line in records(board.frame)]
        if with_reported:
            lines += [_reported_record(line, name) for line in board.reported]
        frames.append(pd.DataFrame(lines, columns=["kind", *TYPES, "source"]).astype({"kind": "str", **TYPES}))
    table = pd.concat(frames)
    for column in table.columns:
        if not pd.api.types.is_numeric_dtype(table[column]):
            table[column] = table[column].map(inert, na_action="ignore")
    return table.to_csv(index=False, lineterminator="\n")


def _reported_record(line: Reported, task: str) -> dict[str, Any]:
    columns = ("method", "accuracy", "dense_accuracy", "delta_points", "kept_flops", "compression", "source")
    return {"kind": "reported", "task": task, **{name: getattr(line, name) for name in columns}}


def boards_record(boards: Sequence[Board], with_reported: bool = False) -> dict[str, Any]:
    """Tasks with their rows, as JSON; null for what is not known."""
    tasks = []
    for board in boards:
        record: dict[str, Any] = {
            "task": board.task,
            "title": board.title,
            "dense": None if board.dense is None else asdict(board.dense),
            "skipped_records": board.skipped,
            "notices": list(board.notices),
            "rows": [plain_values(line) for line in records(board.frame)],
        }
        if with_reported:
            record["reported"] = [
                {**asdict(line), "kept_flops": line.kept_flops, "delta_points": line.delta_points}
                for line in board.reported
            ]
        tasks.append(record)
    ranked = [plain_values(line) for line in records(mean_ranks(boards))] if len(boards) > 1 else []
    return {"tasks": tasks, "mean_ranks": ranked}


def boards_markdown(boards: Sequence[Board], with_reported: bool = False) -> str:
    """A heading a task, a table a band."""
    parts = []
    for title, headings, rows in _text_tables(boards, with_reported):
        lines = [headings, ["---"] * len(headings), *rows]
        parts.append(f"{markdown(title)}\n\n" + "\n".join(f"| {' | '.join(map(markdown, line))} |" for line in lines))
    return "\n\n".join(parts) + "\n"


def boards_latex(boards: Sequence[Board], with_reported: bool = False) -> str:
    """Tables for the package booktabs."""
    parts = []
    for title, headings, rows in _text_tables(boards, with_reported):
        body = [" & ".join(map(latex, line)) + r" \\" for line in [headings, *rows]]
        parts.append(
            f"\\begin{{table}}\n\\caption{{{latex(title)}}}\n\\begin{{tabular}}{{{'l' * len(headings)}}}\n"
            f"\\toprule\n{body[0]}\n\\midrule\n" + "\n".join(body[1:]) + "\n\\bottomrule\n\\end{tabular}\n\\end{table}"
        )
    return "% \\usepackage{booktabs}\n" + "\n\n".join(parts) + "\n"


def _named_field(column: str) -> Field:
    return Field(column, lambda line: format_figure(line[column]))


class _TextTable(NamedTuple):
    title: str
    headings: list[str]
    rows: list[list[str]]


def _text_tables(boards: Sequence[Board], with_reported: bool) -> list[_TextTable]:
    tables = []
    fields = [*FIELDS, _named_field("run"), _named_field("note")]
    for board, name in zip(boards, task_names(boards), strict=True):
        for lines in rows_by_band(board.frame):
            title = f"{name}, {band_title(lines)} ({dense_text(board)})"
            rows = [[field.text(line) for field in fields] for line in lines]
            tables.append(_TextTable(title, [field.heading for field in fields], rows))
        if with_reported and board.reported:
            rows = [list(reported_cells(line)) for line in board.reported]
            tables.append(_TextTable(f"{name}, {REPORTED_NOTE}", list(REPORTED_HEADINGS), rows))
    if len(boards) > 1:
        headings, *rows = mean_rank_cells(mean_ranks(boards))
        tables.append(_TextTable("mean rank over tasks", headings, rows))
    return tables

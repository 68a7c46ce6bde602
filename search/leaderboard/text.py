"""A leaderboard as text: for a terminal, CSV, Markdown, LaTeX, JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from search.allocation.targets import beyond_flops
from search.leaderboard.board import TYPES, Board
from search.leaderboard.reported import Reported
from search.leaderboard.views import mean_ranks, task_names
from search.report.html import plain, points, si
from search.results.markup import latex, markdown
from search.results.tables import inert, records
from search.terminal.console import say

REPORTED_NOTE = "reported by papers: not measured here, not ranked"
Line = Mapping[str, Any]


class Field(NamedTuple):
    """A column as people read it."""

    heading: str
    text: Callable[[Line], str]
    right: bool = True


def known(form: Callable[[Any], str]) -> Callable[[Any], str]:
    """`form`, blank for a missing figure."""
    return lambda value: "" if value is None or pd.isna(value) else form(value)


share = known(lambda value: f"{100 * value:.2f}")
kept = known(lambda value: f"{value:.4f}")
times = known(lambda value: f"{value:.2f}×")
milliseconds = known(lambda value: f"{value:.3g}")
whole = known(lambda value: f"{value:,.0f}")
number = known(lambda value: f"{value:g}")
word = known(str)


def accuracy(line: Line) -> str:
    """`91.46 ± 0.12 (3)`: mean, standard deviation over seeds, how many."""
    if pd.isna(line["accuracy"]):
        return ""
    spread = "" if pd.isna(line["std"]) else f" ± {share(line['std'])}"
    return f"{share(line['accuracy'])}{spread} ({line['n']})"


def method(line: Line) -> str:
    """With the options that are not at their default."""
    return f"{line['method']} ({line['options']})" if line["options"] else str(line["method"])


FIELDS = (
    Field("rank", lambda line: word(line["rank"])),
    Field("row", lambda line: line["row"], right=False),
    Field("method", method, right=False),
    Field("strategy", lambda line: line["strategy"], right=False),
    Field("test accuracy, %", accuracy),
    Field("Δ, points", lambda line: known(lambda value: points(value / 100))(line["delta_points"])),
    Field("kept FLOPs", lambda line: kept(line["kept_flops"])),
    Field("params", lambda line: known(si)(line["params"])),
    Field("smaller by", lambda line: times(line["compression"])),
    Field("latency, ms", lambda line: milliseconds(line["latency_ms"])),
    Field("tried", lambda line: word(line["searched"])),
    Field("search, s", lambda line: whole(line["search_seconds"])),
    Field("epochs", lambda line: number(line["epochs"])),
)


def band_title(lines: Sequence[Line]) -> str:
    """`target 0.5: kept FLOPs of at most 0.5000`."""
    asked = ", ".join(dict.fromkeys(line["target"] for line in lines))
    if beyond_flops(lines[0]["target"]):
        return f"target {asked}"
    return f"target {asked}: at most {kept(lines[0]['band'])} of the dense FLOPs"


def bands_of(frame: pd.DataFrame) -> list[list[dict[str, Any]]]:
    """The rows of each band, bands and rows in the table's order."""
    found: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for line in records(frame):
        found.setdefault((line["band"], beyond_flops(line["target"])), []).append(line)
    return list(found.values())


def dense_line(board: Board) -> str:
    """The dense network in one line."""
    dense = board.dense
    if dense is None:
        return ""
    tested = "" if dense.test_accuracy is None else f"{share(dense.test_accuracy)} % on the test set, "
    return f"dense: {tested}{si(dense.flops)} FLOPs, {si(dense.params)} parameters, {si(dense.bytes, 'B')}"


# ---- terminal


def show(boards: Sequence[Board], console: Console, *, with_reported: bool = False, with_commands: bool = True) -> None:
    """Everything that is known, band by band, then where each row comes from."""
    for board, name in zip(boards, task_names(boards), strict=True):
        say(console, f"{name}    {dense_line(board)}", "bold")
        for lines in bands_of(board.frame):
            console.print(_band_table(lines))
        if with_reported and board.reported:
            console.print(_reported_table(board.reported))
        _show_notes(board.frame, console)
        if with_commands:
            _show_origins(board.frame, console)
        console.print()
    if len(boards) > 1:
        console.print(_mean_table(mean_ranks(boards)))
    for notice in dict.fromkeys(notice for board in boards for notice in board.notices):
        say(console, f"note  {notice}", "yellow")
    say(console, "Equal ranks: seeds do not tell them apart (Welch's t-test, 5 %). Blank: not measured.", "dim")


def _band_table(lines: Sequence[Line]) -> Table:
    table = Table(title=Text(band_title(lines)), title_justify="left", box=None, pad_edge=False)
    fields = [field for field in FIELDS if field.heading != "latency, ms" or any(map(field.text, lines))]
    for field in fields:
        table.add_column(field.heading, justify="right" if field.right else "left", no_wrap=not field.right)
    for line in lines:
        table.add_row(*(Text(field.text(line)) for field in fields))
    return table


def _show_notes(frame: pd.DataFrame, console: Console) -> None:
    for line in records(frame):
        for fact in (line["note"], line["latency_device"]):
            if word(fact):
                say(console, f"{line['row']}  {fact}", "dim")


def _show_origins(frame: pd.DataFrame, console: Console) -> None:
    """The run of each row, and the command that leads to it."""
    for line in records(frame):
        if word(line["command"]):
            say(console, f"\n{line['row']}  from {line['run']}\n{line['command']}")


def _reported_table(lines: Sequence[Reported]) -> Table:
    table = Table(title=REPORTED_NOTE, title_justify="left", box=None, pad_edge=False)
    for heading in REPORTED_HEADINGS:
        table.add_column(Text(heading), justify="left" if heading in ("method", "source") else "right")
    for line in lines:
        table.add_row(*map(Text, reported_cells(line)))
    return table


REPORTED_HEADINGS = ("method", "top-1, %", "dense, %", "Δ, points", "kept FLOPs", "top-5, %", "smaller by", "source")


def reported_cells(line: Reported) -> tuple[str, ...]:
    """In the order of `REPORTED_HEADINGS`."""
    delta = known(lambda value: points(value / 100))(line.delta_points)
    figures = (share(line.accuracy), share(line.dense_accuracy), delta, known(lambda v: f"{v:.3f}")(line.kept_flops))
    return (line.method, *figures, share(line.top5), times(line.compression), line.source)


def _mean_table(frame: pd.DataFrame) -> Table:
    table = Table(title="mean rank over tasks", title_justify="left", box=None, pad_edge=False)
    rows = mean_cells(frame)
    for heading in rows[0]:
        table.add_column(Text(heading), justify="left" if heading in ("method", "strategy") else "right")
    for cells in rows[1:]:
        table.add_row(*map(Text, cells))
    return table


def mean_cells(frame: pd.DataFrame) -> list[list[str]]:
    """Headings, then the lines of `mean_ranks` as text."""
    tasks = list(frame.columns[6:])
    heads = ["kept FLOPs", "method", "strategy", "epochs", "mean rank", *(f"rank, {name}" for name in tasks)]
    lines = [
        [kept(line["band"]), method(line), line["strategy"], number(line["epochs"]), number(line["mean_rank"]),
         *(word(line[name]) for name in tasks)]
        for line in records(frame)
    ]  # fmt: skip
    return [heads, *lines]


# ---- files


def as_csv(boards: Sequence[Board], with_reported: bool = False) -> str:
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
    same = {name: getattr(line, name) for name in ("method", "accuracy", "dense_accuracy", "delta_points",
                                                   "kept_flops", "compression", "source")}  # fmt: skip
    return {"kind": "reported", "task": task, **same}


def as_json(boards: Sequence[Board], with_reported: bool = False) -> dict[str, Any]:
    """Tasks with their rows; null for what is not known."""
    tasks = []
    for board in boards:
        record: dict[str, Any] = {"task": board.task, "title": board.title,
                                  "dense": None if board.dense is None else asdict(board.dense),
                                  "skipped_records": board.skipped, "notices": list(board.notices),
                                  "rows": [plain(line) for line in records(board.frame)]}  # fmt: skip
        if with_reported:
            record["reported"] = [
                {**asdict(line), "kept_flops": line.kept_flops, "delta_points": line.delta_points}
                for line in board.reported
            ]
        tasks.append(record)
    ranked = [plain(line) for line in records(mean_ranks(boards))] if len(boards) > 1 else []
    return {"tasks": tasks, "mean_ranks": ranked}


def as_markdown(boards: Sequence[Board], with_reported: bool = False) -> str:
    """A heading a task, a table a band."""
    parts = []
    for title, heads, lines in _tables(boards, with_reported):
        rows = [heads, ["---"] * len(heads), *lines]
        parts.append(f"{markdown(title)}\n\n" + "\n".join(f"| {' | '.join(map(markdown, row))} |" for row in rows))
    return "\n\n".join(parts) + "\n"


def as_latex(boards: Sequence[Board], with_reported: bool = False) -> str:
    """Tables for the package booktabs."""
    parts = []
    for title, heads, lines in _tables(boards, with_reported):
        body = [" & ".join(map(latex, row)) + r" \\" for row in [heads, *lines]]
        parts.append(
            f"\\begin{{table}}\n\\caption{{{latex(title)}}}\n\\begin{{tabular}}{{{'l' * len(heads)}}}\n"
            f"\\toprule\n{body[0]}\n\\midrule\n" + "\n".join(body[1:]) + "\n\\bottomrule\n\\end{tabular}\n\\end{table}"
        )
    return "% \\usepackage{booktabs}\n" + "\n\n".join(parts) + "\n"


def _tables(boards: Sequence[Board], with_reported: bool) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, headings, lines) of every table."""
    found = []
    fields = [*FIELDS, Field("run", lambda line: word(line["run"])), Field("note", lambda line: word(line["note"]))]
    for board, name in zip(boards, task_names(boards), strict=True):
        for lines in bands_of(board.frame):
            title = f"{name}, {band_title(lines)} ({dense_line(board)})"
            found.append(
                (title, [field.heading for field in fields], [[f.text(line) for f in fields] for line in lines])
            )
        if with_reported and board.reported:
            cells = [list(reported_cells(line)) for line in board.reported]
            found.append((f"{name}, {REPORTED_NOTE}", list(REPORTED_HEADINGS), cells))
    if len(boards) > 1:
        heads, *rows = mean_cells(mean_ranks(boards))
        found.append(("mean rank over tasks", heads, rows))
    return found

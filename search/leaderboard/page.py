"""`leaderboard.html`: the fronts of all methods in one picture, then every row; one file that needs no network."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Literal

import pandas as pd

from search.leaderboard.board import Board
from search.leaderboard.cells import (
    KEPT,
    MILLISECONDS,
    NUMBER,
    REPORTED_HEADINGS,
    REPORTED_NOTE,
    TIMES,
    WHOLE,
    Line,
    accuracy_text,
    delta_text,
    dense_text,
    mean_rank_cells,
    method_text,
    reported_cells,
)
from search.leaderboard.views import mean_ranks, task_names
from search.report.figures import Figure, finals_figure
from search.report.html import Cell, Column, Markup, code_block, escape, page, plot, section, table
from search.results.figure_text import format_figure, percent, shorten, si
from search.results.tables import records

KINDS: dict[str, Literal["word", "figure", "long"]] = {"method": "word", "strategy": "word", "source": "long"}
EXPLANATION = (
    "Test accuracy: mean ± standard deviation over seeds (how many), each seed on the test set once. Δ: percentage "
    "points against the dense network. Rows of one target share a rank where their seeds do not tell them apart (Welch "
    "test at 5 %, and more than one test image); a single seed has no rank. Tried and search: candidates, and the "
    "workers' seconds, that finding the allocation took. Blank: not measured. A click on a heading sorts."
)


def page_html(boards: Sequence[Board], *, created: str | None = None, with_reported: bool = False) -> str:
    """The whole page.

    Args:
        created: when; None takes now.
    """
    created = created or time.strftime("%Y-%m-%d %H:%M %Z")
    names = task_names(boards)
    title = f"Leaderboard: {names[0]}" if len(names) == 1 else f"Leaderboard of {len(names)} tasks"
    body = [f"<h1>{escape(title)}</h1>\n<p class=soft>{escape(created)}</p>\n"]
    if len(boards) > 1:
        links = "".join(f'<a href="#task-{index}">{escape(name)}</a>' for index, name in enumerate(names))
        body.append(f"<nav>{links}</nav>")
        body.append(section("mean", "Mean rank over tasks", _mean(boards)))
    for index, (board, name) in enumerate(zip(boards, names, strict=True)):
        heading = "Results" if len(boards) == 1 else name
        body.append(section(f"task-{index}", heading, *_task(board, index, with_reported)))
    return page(title, Markup("".join(body)))


def _task(board: Board, index: int, with_reported: bool) -> list[str]:
    parts = [f"<p>{escape(_sentence(dense_text(board)))}</p>"] if board.dense else []
    figure = front_figure(board)
    if figure is not None:
        parts.append(plot(f"fronts-plot-{index}", "Kept FLOPs against test accuracy of every method", figure))
    parts.append(f"<p class=soft>{escape(EXPLANATION)}</p>")
    timed = bool(board.frame["latency_ms"].notna().any())
    lines = [_cells(line, timed) for line in records(board.frame)]
    parts.append(table(columns(timed), lines, f"board-{index}"))
    parts += _notes(board.frame)
    if with_reported and board.reported:
        parts.append(f"<h3>{escape(REPORTED_NOTE.capitalize())}</h3>")
        parts.append(_reported(board, index))
    return [*parts, *_origins(board.frame)]


def front_figure(board: Board) -> Figure | None:
    """Kept FLOPs against test accuracy, a line for every method and strategy, one standard deviation up and down."""
    if board.dense is None:
        return None
    frame = board.frame.rename(
        columns={"accuracy": "test_accuracy", "std": "test_std", "n": "seeds", "row": "candidate"}
    )
    bands = frame[frame["band"] > 0].drop_duplicates("band")  # 0: a target that does not speak of FLOPs
    targets = [(str(line["target"]), round(line["band"] * board.dense.flops)) for line in records(bands)]
    figure = finals_figure(frame.sort_values(["method", "strategy", "kept_flops"]), board.dense, targets)
    if figure is not None:
        for trace in figure["data"]:
            if "error_y" in trace:
                trace |= {"mode": "lines+markers", "line": {"color": trace["marker"]["color"], "width": 1.2}}
                trace["error_y"] = trace["error_y"] | {"color": trace["marker"]["color"]}
    return figure


# ---- tables


def columns(timed: bool) -> list[Column]:
    """Headings; those of latencies where there are any."""
    latency = [Column("latency, ms", "figure"), Column("dense, ms", "figure"), Column("measured on", "long")]
    return [
        Column("rank", "figure"),
        Column("row"),
        Column("target"),
        Column("method"),
        Column("strategy"),
        *(
            Column(name, "figure")
            for name in ("test accuracy, %", "Δ, points", "dense, %", "asked", "kept", "params", "size",
                         "smaller by")
        ),
        *(latency if timed else ()),
        *(Column(name, "figure") for name in ("tried", "search, s", "epochs")),
    ]  # fmt: skip


def _cells(line: Line, timed: bool) -> list[Cell]:
    def cell(name: str, text: str) -> Cell:
        return Cell("") if pd.isna(line[name]) else Cell(text, float(line[name]))

    def figure(name: str, form: str = "{}") -> Cell:
        return cell(name, format_figure(line[name], form))

    latency = [
        figure("latency_ms", MILLISECONDS),
        figure("dense_latency_ms", MILLISECONDS),
        Cell(format_figure(line["latency_device"])),
    ]
    who = [
        figure("rank"),
        *(Cell(shorten(text, 40)) for text in (line["row"], line["target"], method_text(line), line["strategy"])),
    ]
    if pd.isna(line["accuracy"]):  # the reason takes the place of the figures
        return [*who, Cell(shorten(format_figure(line["note"]), 300), span=len(columns(timed)) - len(who))]
    return [
        *who,
        cell("accuracy", accuracy_text(line)),
        cell("delta_points", delta_text(line["delta_points"])),
        cell("dense_accuracy", percent(line["dense_accuracy"])),
        figure("kept_asked", KEPT),
        figure("kept_flops", KEPT),
        cell("params", si(line["params"])),
        cell("bytes", si(line["bytes"], "B")),
        figure("compression", TIMES),
        *(latency if timed else ()),
        figure("searched"),
        figure("search_seconds", WHOLE),
        figure("epochs", NUMBER),
    ]


def _notes(frame: pd.DataFrame) -> Iterable[str]:
    """What a reader must know of rows that have figures."""
    for line in records(frame[frame["accuracy"].notna() & frame["note"].notna()]):
        yield f'<p class="soft">{escape(line["row"])}: {escape(shorten(line["note"], 300))}</p>'


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _reported(board: Board, index: int) -> Markup:
    heads = [Column(name, KINDS.get(name, "figure")) for name in REPORTED_HEADINGS]
    lines = []
    for line in board.reported:
        values = [None, line.accuracy, line.dense_accuracy, line.delta_points, line.kept_flops, line.top5,
                  line.compression, None]  # fmt: skip
        lines.append([Cell(text, value) for text, value in zip(reported_cells(line), values, strict=True)])
    return table(heads, lines, f"reported-{index}")


def _mean(boards: Sequence[Board]) -> Markup:
    frame = mean_ranks(boards)
    heads, *rows = mean_rank_cells(frame)
    columns_ = [Column(name, KINDS.get(name, "figure")) for name in heads]
    return table(columns_, [list(map(_sortable, row, columns_)) for row in rows], "mean-table")


def _sortable(text: str, column: Column) -> Cell:
    return Cell(text, float(text) if text and column.kind == "figure" else None)


def _origins(frame: pd.DataFrame) -> Iterable[str]:
    """The command that leads to each row."""
    lines = records(frame[frame["command"].notna()])
    if lines:
        yield "<h3>How to reproduce a row</h3>"
    for line in lines:
        who = f"{line['row']}: {method_text(line)}, {line['strategy']}, target {line['target']}"
        run = shorten(line["run"], 60)
        yield f"<p>{escape(who)}; run {escape(run)}</p>{code_block(line['command'])}"

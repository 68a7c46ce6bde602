"""The last screens of searches and comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from search.allocation.targets import flops_text
from search.engine.outcomes import RunOutcomes
from search.leaderboard.board import Board
from search.leaderboard.rich_tables import print_boards
from search.report.outputs import Written
from search.results.tables import table_records
from search.settings.shell import path_argument, shell_word
from search.terminal.console import print_line


def show_search_end(outcomes: RunOutcomes, written: Written, console: Console) -> None:
    """The last screen of a search: the front, the finalists, and how to go on."""
    view = written.view
    front, finals = view.tables.front, view.tables.finals
    console.print()
    if len(front):
        console.print(_front_table(front))
    if len(finals):
        console.print(_finals_table(finals, view.dense.test_accuracy))
    for remark in view.remarks:
        console.print(Text(remark))
    for target, _ in view.targets:
        if (best := view.tables.best(target)) is not None and best.rival is not None:
            names = f"{_candidate_text(best.record)} is inside the noise of {_candidate_text(best.rival)}"
            print_line(console, f"target {target}: {names} (Welch's t)")
    show_latencies(view.latencies, console)
    failures = view.tables.candidates[view.tables.candidates["status"] == "failed"]
    for failure in table_records(failures.drop_duplicates("reason")):
        who = f"{failure['candidate']} ({failure['strategy']}, {failure['target']})"
        console.print(Text(f"failed: {who}: {failure['reason']}"))
    _show_next_steps(outcomes, written, console)


def show_comparison_end(outcomes: RunOutcomes, written: Written, boards: Sequence[Board], console: Console) -> None:
    """The last screen of a comparison: the task's leaderboard, and how to go on."""
    if boards:
        print_boards(boards, console)
    show_latencies(written.view.latencies, console)
    _show_next_steps(outcomes, written, console)


def _show_next_steps(outcomes: RunOutcomes, written: Written, console: Console) -> None:
    """Where the files of a run are, and how to look at them, export the best, or go on."""
    view, folder = written.view, outcomes.prepared.config.folder
    print_line(console, f"\nfiles     {folder}/: " + ", ".join(path.name for path in written.files))
    if not outcomes.complete:
        print_line(console, f"stopped   nothing finished is lost; go on with: {view.resume_command}")
        return
    print_line(console, f"look      open {shell_word(path_argument(folder / 'report.html'))} in a browser")
    if view.export_command is not None:
        print_line(console, f"export    {view.export_command}")


def show_latencies(latencies: Mapping[str, str], console: Console) -> None:
    """What was measured of whole networks; the same network once."""
    for words in dict.fromkeys(latencies.values()):
        names = [candidate for candidate, latency in latencies.items() if latency == words]
        print_line(console, f"latency   {', '.join(names)}: {words}")


def _candidate_text(record: Mapping[str, Any]) -> str:
    return f"{record['strategy']}'s {record['candidate']}"


def _front_table(front: pd.DataFrame) -> Table:
    table = Table(title="Pareto front, search split", title_justify="left", box=None, pad_edge=False)
    for column in ("candidate", "strategy", "target", "kept FLOPs", "FLOPs", "accuracy"):
        table.add_column(column, justify="right" if column in ("kept FLOPs", "FLOPs", "accuracy") else "left")
    for record in table_records(front):
        table.add_row(
            record["candidate"],
            record["strategy"],
            record["target"],
            f"{record['kept_flops']:.4f}",
            flops_text(record["flops"]),
            f"{record['accuracy']:.2%}",
        )
    return table


def _finals_table(finals: pd.DataFrame, dense: float | None) -> Table:
    title = "Finalists, test set" + ("" if dense is None else f" (dense {dense:.2%})")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    timed = bool(finals["latency_ms"].notna().any())
    for column in ("target", "strategy", "kept FLOPs", "params", "accuracy", "points", "seeds"):
        table.add_column(column, justify="left" if column in ("target", "strategy") else "right")
    if timed:
        table.add_column("latency, ms", justify="right")
    for record in table_records(finals):
        table.add_row(
            record["target"],
            record["strategy"],
            _format_number(record["kept_flops"], "{:.4f}"),
            _format_number(record["params"], "{:,.0f}"),
            _format_number(record["test_accuracy"], "{:.2%}") + _format_number(record["test_std"], " ± {:.2%}"),
            _format_number(record["delta_points"], "{:+.2f}"),
            str(record["seeds"]),
            *([_format_number(record["latency_ms"], "{:.3g}")] if timed else []),
        )
    return table


def _format_number(value: Any, form: str) -> str:
    return "" if pd.isna(value) else form.format(value)

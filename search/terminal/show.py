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
from search.terminal.console import say


def show_search_end(outcomes: RunOutcomes, written: Written, console: Console) -> None:
    """The last screen of a search: the front, the finalists, and how to go on."""
    view, folder = written.view, outcomes.prepared.config.folder
    front, finals = view.tables.front, view.tables.finals
    console.print()
    if len(front):
        console.print(_front_table(front))
    if len(finals):
        console.print(_finals_table(finals, view.dense.test_accuracy))
    for remark in view.remarks:
        console.print(Text(remark))
    for asked, _ in view.targets:
        if (best := view.tables.best(asked)) is not None and best.rival is not None:
            say(console, f"target {asked}: {_named(best.line)} is inside the noise of {_named(best.rival)} (Welch's t)")
    show_latencies(view.latencies, console)
    failures = view.tables.candidates[view.tables.candidates["status"] == "failed"]
    for line in table_records(failures.drop_duplicates("reason")):
        console.print(Text(f"failed: {line['candidate']} ({line['strategy']}, {line['target']}): {line['reason']}"))
    say(console, f"\nfiles     {folder}/: " + ", ".join(path.name for path in written.files))
    if outcomes.complete:
        say(console, f"look      open {shell_word(path_argument(folder / 'report.html'))} in a browser")
        if not len(finals) or finals["test_accuracy"].notna().any():  # else every finalist failed
            say(console, f"export    {view.export_command}")
    else:
        say(console, f"stopped   nothing finished is lost; go on with: {view.resume_command}")


def show_comparison_end(outcomes: RunOutcomes, written: Written, boards: Sequence[Board], console: Console) -> None:
    """The last screen of a comparison: the task's leaderboard, and how to go on."""
    folder = outcomes.prepared.config.folder
    if boards:
        print_boards(boards, console, with_commands=False)
    show_latencies(written.view.latencies, console)
    say(console, f"files     {folder}/: " + ", ".join(path.name for path in written.files))
    if not outcomes.complete:
        say(console, f"stopped   nothing finished is lost; go on with: {written.view.resume_command}")


def show_latencies(latencies: Mapping[str, str], console: Console) -> None:
    """What was measured of whole networks; the same network once."""
    for words in dict.fromkeys(latencies.values()):
        names = [candidate for candidate, own in latencies.items() if own == words]
        say(console, f"latency   {', '.join(names)}: {words}")


def _named(line: Mapping[str, Any]) -> str:
    return f"{line['strategy']}'s {line['candidate']}"


def _front_table(front: pd.DataFrame) -> Table:
    table = Table(title="Pareto front, search split", title_justify="left", box=None, pad_edge=False)
    for column in ("candidate", "strategy", "target", "kept FLOPs", "FLOPs", "accuracy"):
        table.add_column(column, justify="right" if column in ("kept FLOPs", "FLOPs", "accuracy") else "left")
    for line in table_records(front):
        kept, accuracy = f"{line['kept_flops']:.4f}", f"{line['accuracy']:.2%}"
        table.add_row(line["candidate"], line["strategy"], line["target"], kept, flops_text(line["flops"]), accuracy)
    return table


def _finals_table(finals: pd.DataFrame, dense: float | None) -> Table:
    title = "Finalists, test set" + ("" if dense is None else f" (dense {dense:.2%})")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    timed = bool(finals["latency_ms"].notna().any())
    for column in ("target", "strategy", "kept FLOPs", "params", "accuracy", "points", "seeds"):
        table.add_column(column, justify="left" if column in ("target", "strategy") else "right")
    if timed:
        table.add_column("latency, ms", justify="right")
    for line in table_records(finals):
        table.add_row(
            line["target"],
            line["strategy"],
            _number(line["kept_flops"], "{:.4f}"),
            _number(line["params"], "{:,.0f}"),
            _number(line["test_accuracy"], "{:.2%}") + _number(line["test_std"], " ± {:.2%}"),
            _number(line["delta_points"], "{:+.2f}"),
            str(line["seeds"]),
            *([_number(line["latency_ms"], "{:.3g}")] if timed else []),
        )
    return table


def _number(value: Any, form: str) -> str:
    return "" if pd.isna(value) else form.format(value)

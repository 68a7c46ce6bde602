"""The last screens of searches and comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from models.tasks.metric import Metric
from search.allocation.targets import flops_text
from search.engine.outcomes import RunOutcomes
from search.leaderboard.board import Board
from search.leaderboard.rich_tables import print_boards
from search.report.outputs import Written
from search.report.page import other_metric_columns
from search.report.view import RunView
from search.results.dense import Dense
from search.results.tables import table_records
from search.settings.shell import path_argument, shell_word
from search.terminal.console import print_line


def show_run_end(outcomes: RunOutcomes, written: Written, boards: Sequence[Board], console: Console) -> None:
    """The last screen of a run: what came of it, remarks, failures, and how to go on.

    A search shows its own front and finalists, a comparison the leaderboard of its task.
    """
    view = written.view
    console.print()
    if not outcomes.prepared.config.comparison:
        _show_tables(view, console)
    elif boards:
        print_boards(boards, console)
    for remark in [*view.remarks, *_rival_remarks(view)]:
        print_line(console, remark)
    show_latencies(view.latencies, console)
    for failure in _failure_remarks(view):
        print_line(console, failure)
    _show_next_steps(outcomes, written, console)


def _show_tables(view: RunView, console: Console) -> None:
    front, finals = view.tables.front, view.tables.finals
    if len(front):
        console.print(_front_table(front, view.dense.metric))
    if len(finals):
        console.print(_finals_table(finals, view.dense))


def _rival_remarks(view: RunView) -> list[str]:
    """Of answers that the spread of seeds does not tell from the next finalist."""
    answers = {target: best for target, _ in view.targets if (best := view.tables.best(target)) is not None}
    return [
        f"target {target}: {_candidate_text(best.record, view)} is inside the noise of "
        f"{_candidate_text(best.rival, view)} (Welch's t)"
        for target, best in answers.items()
        if best.rival is not None
    ]


def _failure_remarks(view: RunView) -> list[str]:
    """The first candidate that failed for each reason."""
    failures = view.tables.candidates[view.tables.candidates["status"] == "failed"]
    return [
        f"failed: {_candidate_text(failure, view)} at {failure['target']}: {failure['reason']}"
        for failure in table_records(failures.drop_duplicates("reason"))
    ]


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


def _candidate_text(record: Mapping[str, Any], view: RunView) -> str:
    """`acra-uniform's cba4cbdd`, with the method if the run has several."""
    methods = view.tables.candidates["method"].nunique()
    return f"{record['strategy']}'s {record['candidate']}" + (f" ({record['method']})" if methods > 1 else "")


def _front_table(front: pd.DataFrame, metric: Metric) -> Table:
    table = Table(title="Pareto front, search split", title_justify="left", box=None, pad_edge=False)
    for column in ("candidate", "strategy", "target"):
        table.add_column(column)
    for column in ("kept FLOPs", "FLOPs", _score_heading(metric)):
        table.add_column(column, justify="right")
    for record in table_records(front):
        table.add_row(
            record["candidate"],
            record["strategy"],
            record["target"],
            f"{record['kept_flops']:.4f}",
            flops_text(record["flops"]),
            metric.value_text(record["score"]) if metric.unit == "%" else metric.number_text(record["score"]),
        )
    return table


def _finals_table(finals: pd.DataFrame, dense: Dense) -> Table:
    metric, tested = dense.metric, dense.test_score
    title = "Finalists, test set" + ("" if tested is None else f" (dense {metric.value_text(tested)})")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    timed = [name for name in ("latency_ms", "predicted_latency_ms") if finals[name].notna().any()][:1]
    change = "points" if metric.unit == "%" else "change"
    others = other_metric_columns("test_score", "", dense, finals)
    others_headings = [column.heading for column in others]
    for column in (
        "target",
        "strategy",
        "kept FLOPs",
        "params",
        _score_heading(metric),
        change,
        *others_headings,
        "seeds",
    ):
        table.add_column(column, justify="left" if column in ("target", "strategy") else "right")
    for name in timed:
        table.add_column("latency, ms" if name == "latency_ms" else "predicted latency, ms", justify="right")
    for record in table_records(finals):
        table.add_row(
            record["target"],
            record["strategy"],
            _format_number(record["kept_flops"], "{:.4f}"),
            _format_number(record["params"], "{:,.0f}"),
            _tested_text(record, metric),
            "" if pd.isna(record["delta"]) else metric.delta_text(record["delta"]).replace("−", "-"),
            *(column.text(record) for column in others),
            str(record["seeds"]),
            *(_format_number(record[name], "{:.3g}") for name in timed),
        )
    return table


def _tested_text(record: Mapping[str, Any], metric: Metric) -> str:
    """The mean over seeds; the unit of a percentage stands behind every number, others in the heading."""
    mean, std = record["test_score"], record["test_std"]
    if pd.isna(mean):
        return ""
    if metric.unit == "%":
        return metric.mean_text(mean, std)
    return metric.number_text(mean) + ("" if pd.isna(std) else f" ± {metric.spread_text(std)}")


def _score_heading(metric: Metric) -> str:
    return metric.name if metric.unit == "%" else metric.heading


def _format_number(value: Any, form: str) -> str:
    return "" if pd.isna(value) else form.format(value)

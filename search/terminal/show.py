"""What the command line shows: a search from its first screen to its last, plans, records."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from search.allocation.targets import flops_text
from search.engine.session import Result, run
from search.engine.setup import prepare
from search.engine.stopping import stop_signals
from search.files.atomic import report_unwritable
from search.report.final_latency import measure_finals
from search.report.outputs import Written, write_outputs
from search.results.tables import records
from search.settings.command import resume_command, search_command
from search.settings.config import RunConfig
from search.settings.shell import path_argument, shell_word
from search.terminal.announce import announce
from search.terminal.console import say


def search_and_show(
    config: RunConfig, console: Console, *, command: str | None = None, retry_failed: bool = False
) -> tuple[dict[str, Any], bool]:
    """Run a search with its live table; returns its JSON form and whether it is complete.

    Args:
        command: what reproduces it; None takes the command line that the configuration stands for.
    """
    console.print("loading the task, measuring the dense network ...", style="dim")
    setup = prepare(config, lambda line: say(console, line, "dim"))
    announce(setup, console)
    with stop_signals():  # beyond the search: its files are written and its last line is said
        result = run(setup, console, retry_failed=retry_failed)
        with report_unwritable(config.folder, f"free space, then write them by: {resume_command(config)}"):
            checked = measure_finals([result], lambda line: say(console, line, "dim"))
            written = write_outputs(result, command or search_command(config), checked)
        _show_end(result, written, console)
    return _as_json(result, written), result.complete


def _show_end(result: Result, written: Written, console: Console) -> None:
    view, folder = written.view, result.setup.config.folder
    console.print()
    if len(view.front):
        console.print(_front_table(view.front))
    if len(view.finals):
        console.print(_finals_table(view.finals, view.dense.test_accuracy))
    for remark in view.remarks:
        console.print(Text(remark))
    for asked, _ in view.targets:
        if (best := view.best(asked)) is not None and best.rival is not None:
            say(console, f"target {asked}: {_named(best.line)} is inside the noise of {_named(best.rival)} (Welch's t)")
    show_latencies(view.latencies, console)
    failures = view.frame[view.frame["status"] == "failed"]
    for line in records(failures.drop_duplicates("reason")):
        console.print(Text(f"failed: {line['candidate']} ({line['strategy']}, {line['target']}): {line['reason']}"))
    say(console, f"\nfiles     {folder}/: " + ", ".join(path.name for path in written.files))
    if result.complete:
        say(console, f"look      open {shell_word(path_argument(folder / 'report.html'))} in a browser")
        say(console, f"export    {view.export_command}")
    else:
        say(console, f"stopped   nothing finished is lost; go on with: {view.resume_command}")


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
    for line in records(front):
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
    for line in records(finals):
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


def _as_json(result: Result, written: Written) -> dict[str, Any]:
    view = written.view
    return {
        "run": str(result.setup.config.folder),
        "complete": result.complete,
        "dense": dataclasses.asdict(view.dense),
        "front": json.loads(view.front.to_json(orient="records")),
        "finalists": json.loads(view.finals.to_json(orient="records")),
        "files": [str(path) for path in written.files],
        "seconds": result.seconds,
        "skipped_records": result.skipped,
        "notices": list(result.setup.evaluator.task.notices),
    }

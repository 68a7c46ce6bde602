"""What the command line shows: a search from its first screen to its last, plans, records."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from models.task import TaskConfig
from search import baseline
from search.announce import announce, say
from search.candidate import Recipe
from search.config import SearchConfig
from search.outputs import Written, resume_command, write_outputs
from search.session import Result, run
from search.setup import prepare
from search.tables import records
from search.targets import TOLERANCE, flops_text
from search.view import RunView


def search_and_show(
    config: SearchConfig, console: Console, *, command: str, retry_failed: bool
) -> tuple[dict[str, Any], bool]:
    """Run a search with its live table; returns its JSON form and whether it is complete."""
    console.print("loading the task, measuring the dense network ...", style="dim")
    setup = prepare(config)
    announce(setup, console)
    say(console, f"resume    {resume_command(config.folder)}\n")
    result = run(setup, console, retry_failed=retry_failed)
    written = write_outputs(result, command)
    _show_end(result, written, console)
    return _as_json(result, written), result.complete


def _show_end(result: Result, written: Written, console: Console) -> None:
    view, folder = written.view, result.setup.config.folder
    console.print()
    if len(view.front):
        console.print(_front_table(view.front))
    if len(view.finals):
        console.print(_finals_table(view.finals, view.dense.test_accuracy))
    for asked, limit in view.targets:
        if _too_coarse(view, asked, limit):
            say(console, f"target {asked}: the settings are too coarse to meet it; these are the closest below it")
    failures = view.frame[view.frame["status"] == "failed"]
    for line in records(failures.drop_duplicates("reason")):
        console.print(Text(f"failed: {line['candidate']} ({line['strategy']}, {line['target']}): {line['reason']}"))
    say(console, f"\nfiles     {folder}/: " + ", ".join(path.name for path in written.files))
    if result.complete:
        say(console, f"look      open {folder / 'report.html'} in a browser")
        say(console, f"export    {view.export_command}")
    else:
        say(console, f"stopped   nothing finished is lost; go on with: {view.resume_command}")


def _too_coarse(view: RunView, asked: str, limit: int) -> bool:
    """Whether no candidate of a target lies within the tolerance below it."""
    flops = view.frame.loc[(view.frame["target"] == asked) & view.frame["flops"].notna(), "flops"]
    return len(flops) > 0 and bool(flops.max() < limit - TOLERANCE * view.dense.flops)


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
    for column in ("target", "strategy", "kept FLOPs", "params", "accuracy", "points", "seeds"):
        table.add_column(column, justify="left" if column in ("target", "strategy") else "right")
    for line in records(finals):
        table.add_row(
            line["target"],
            line["strategy"],
            _number(line["kept_flops"], "{:.4f}"),
            _number(line["params"], "{:,.0f}"),
            _number(line["test_accuracy"], "{:.2%}") + _number(line["test_std"], " ± {:.2%}"),
            _number(line["delta_points"], "{:+.2f}"),
            str(line["seeds"]),
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
    }


def show_plan(plan: Mapping[str, Any], console: Console) -> None:
    """A plan as a table: every site with its setting, then the costs."""
    table = Table(box=None, pad_edge=False)
    table.add_column("site")
    table.add_column("setting")
    for site, setting in plan["allocation"].items():
        table.add_row(Text(site), ", ".join(f"{knob}={value}" for knob, value in setting.items()) or "dense")
    console.print(table)
    for layer, reason in plan["left_dense"].items():
        console.print(Text(f"{layer} stays dense: {reason}", style="dim"))
    dense, achieved, target = plan["dense"], plan["achieved"], plan["target"]
    console.print(
        f"FLOPs {flops_text(dense['flops'])} -> {flops_text(achieved['flops'])}, kept {achieved['kept_flops']:.4f} "
        f"for {target['asked']}; params {dense['params']:,} -> {achieved['params']:,}; "
        f"bytes {dense['bytes']:,} -> {achieved['bytes']:,}; "
        f"reachable: kept {plan['reachable']['min_kept']:.4f} to {plan['reachable']['max_kept']:.4g}",
        highlight=False,
    )
    if not target["met"]:
        console.print("the settings are too coarse for this target: this is the closest allocation below it")


def trained(
    config: TaskConfig, recipe: Recipe, out: Path, *, seed: int, device: str | None, console: Console
) -> dict[str, float]:
    """Train a dense baseline under a progress bar."""
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeRemainingColumn())
    with RichProgress(*columns, console=console) as bar:
        job = bar.add_task("training")
        accuracies = baseline.train(
            config,
            recipe,
            out,
            seed=seed,
            device=device,
            on_step=lambda done, steps: bar.update(job, completed=done, total=steps),
        )
    console.print(
        f"{out}: {accuracies['search']:.2%} on the search split, {accuracies['test']:.2%} on the test set",
        highlight=False,
    )
    return accuracies


def show_records(records: Mapping[str, Any], columns: tuple[str, ...], *, as_json: bool) -> None:
    """A registry as a table or as JSON."""
    rows = [dataclasses.asdict(record) for record in records.values()]
    if as_json:
        print(json.dumps(rows, indent=2, default=dict))
        return
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(str(row[column])) for column in columns))
    Console().print(table)

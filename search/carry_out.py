"""A run from its configuration to its files: prepared, run, measured, reported."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from models.errors import UserError
from search.api_objects import RunResult
from search.engine.doubts import check_finalists
from search.engine.outcomes import RunOutcomes
from search.engine.prepare import PreparedRun, prepare_run
from search.engine.running import run_prepared
from search.engine.stopping import stop_signals
from search.export.finished_run import FinishedRun
from search.files.atomic import atomic_write, report_unwritable
from search.leaderboard.board import Board, board_of
from search.leaderboard.forms import boards_csv, boards_record
from search.leaderboard.page import page_html
from search.observer import Observer
from search.report.final_latency import final_latencies
from search.report.outputs import Written, write_outputs
from search.settings.command import resume_command
from search.settings.config import RunConfig


def carry_out(config: RunConfig, observer: Observer, *, retry_failed: bool = False) -> RunResult:
    """Run what a configuration asks for and write its files.

    Args:
        retry_failed: judge failed candidates of the ledger again.

    Raises:
        UserError: an input that cannot be worked with, or every candidate failed; or every finalist did, after the
            files were written.
    """
    observer.on_loading(config)
    run = prepare_run(config, observer.say)
    observer.on_prepared(run)
    with stop_signals():  # beyond the search: its files are written and its last line is said
        outcomes = run_prepared(run, observer, retry_failed=retry_failed)
        with report_unwritable(config.folder, f"free space, then write them by: {resume_command(config)}"):
            latencies = final_latencies(outcomes, observer.say)
            boards = _task_boards(run)  # after the latencies were measured: it shows them
            written = write_outputs(outcomes, latencies)
            written.files.extend(_write_boards(boards, config.folder))
        observer.on_files_written(outcomes, written, boards)
    check_finalists(outcomes)
    finished = FinishedRun.from_outcomes(outcomes, written.view.tables)
    return RunResult(finished, outcomes.complete, _run_summary(outcomes, written, boards))


def _task_boards(run: PreparedRun) -> list[Board]:
    """The task's leaderboard; none before a first finalist was tested."""
    try:
        return [board_of(run.config.ledger, run.fingerprint, Path(run.config.results))]
    except UserError:
        return []


def _write_boards(boards: list[Board], folder: Path) -> list[Path]:
    if not boards:
        return []
    pages = {folder / "leaderboard.html": page_html(boards), folder / "leaderboard.csv": boards_csv(boards)}
    for path, content in pages.items():
        atomic_write(path, content)
    return list(pages)


def _run_summary(outcomes: RunOutcomes, written: Written, boards: list[Board]) -> dict[str, Any]:
    """What the command line prints with `--json`; of a comparison, with the leaderboard."""
    view, run = written.view, outcomes.prepared
    summary = {
        "run": str(run.config.folder),
        "complete": outcomes.complete,
        "dense": dataclasses.asdict(view.dense),
        "front": json.loads(view.tables.front.to_json(orient="records")),
        "finalists": json.loads(view.tables.finals.to_json(orient="records")),
        "files": [str(path) for path in written.files],
        "seconds": outcomes.seconds,
        "skipped_records": outcomes.skipped,
        "notices": list(run.task.notices),
    }
    if not run.config.comparison:
        return summary
    return {**summary, **(boards_record(boards) if boards else {"tasks": [], "mean_ranks": []})}

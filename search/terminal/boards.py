"""What the command line shows of comparisons and leaderboards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from models.errors import UserError
from search.allocation.targets import flops_text
from search.engine import compare
from search.engine.compare import Compared, Comparison
from search.engine.session import title
from search.engine.standings import Standing
from search.engine.stopping import stop_signals
from search.files.atomic import atomic_write, report_unwritable
from search.latency.check import Checked
from search.leaderboard.board import Board, board_of, find_tasks
from search.leaderboard.forms import PIPE_WIDTH, boards_csv, boards_record
from search.leaderboard.page import page_html
from search.leaderboard.rich_tables import print_boards
from search.leaderboard.verify import find_row, verify
from search.ledger.ledger import Ledger
from search.report.final_latency import measure_finals
from search.report.outputs import latencies_in_words, rows_of
from search.results.figure_text import plain_values
from search.results.tables import Row, candidates_frame, finals_frame, pareto, write_csv
from search.settings.command import resume_command
from search.settings.config import RunConfig
from search.terminal.announce import where
from search.terminal.console import PlainConsole, say
from search.terminal.show import show_latencies

PAGE = "leaderboard.html"


# ---- compare


def compare_and_show(config: RunConfig, console: Console, *, retry_failed: bool) -> tuple[dict[str, Any], bool]:
    """Run a comparison with its live table; returns its JSON form and whether it is complete."""
    console.print("loading the task, binding the methods ...", style="dim")
    comparison = compare.prepare(config, lambda line: say(console, line, "dim"))
    _announce(comparison, console)
    with stop_signals():  # beyond the search: its files are written and its last line is said
        return _run_and_show(comparison, console, retry_failed=retry_failed)


def _run_and_show(comparison: Comparison, console: Console, *, retry_failed: bool) -> tuple[dict[str, Any], bool]:
    config = comparison.config
    done = compare.run(comparison, console, retry_failed=retry_failed)
    boards = _own_boards(done)
    with report_unwritable(config.folder, f"free space, then write them by: {resume_command(config)}"):
        checked = measure_finals(done.results, lambda line: say(console, line, "dim"))
        files = _write(done, checked)
        if boards:
            print_boards(boards, console, with_commands=False)
            atomic_write(config.folder / PAGE, page_html(boards))
            atomic_write(config.folder / "leaderboard.csv", boards_csv(boards))
            files += [PAGE, "leaderboard.csv"]
    for result in done.results:
        show_latencies(latencies_in_words(result, rows_of(result), checked), console)
    say(console, f"files     {config.folder}/: {', '.join(files)}")
    if not done.complete:
        say(console, f"stopped   nothing finished is lost; go on with: {resume_command(config)}")
    record = boards_record(boards) if boards else {"tasks": [], "mean_ranks": []}
    head = {"run": str(config.folder), "complete": done.complete, "seconds": done.seconds}
    head["skipped_records"] = done.results[0].skipped
    notices = list(comparison.setups[0].evaluator.task.notices)
    return {**head, "notices": notices, **record}, done.complete


def _announce(comparison: Comparison, console: Console) -> None:
    """The first screen: what will be done, what cannot be, and where."""
    setups, config = comparison.setups, comparison.config
    first, counts = setups[0], compare.planned(comparison.setups)
    tested = "" if first.dense.test_accuracy is None else f", {first.dense.test_accuracy:.2%} on the test set"
    say(console, f"{title(first)}: {flops_text(first.dense.flops)} FLOPs{tested}", "bold")
    for setup in setups:
        targets = ", ".join(target.asked for target, _ in setup.targets)
        say(console, f"method    {setup.config.method}: {', '.join(setup.config.strategies) or 'nothing'} at {targets}")
    for standing in {(each.method, each.target): each for each in comparison.refused}.values():
        say(console, f"left out  {standing.method} at {standing.target}: {standing.reason}")
    say(
        console,
        f"work      {counts['scan']} measurements without training, up to {counts['search']} candidates of "
        f"{config.recipe.epochs:g} epochs, {counts['final']} finalists of {config.final_recipe.epochs:g}, less "
        f"what the ledger knows",
    )
    say(console, f"where     {first.evaluator.task.device}, {where(first.resources)}")
    for notice in first.evaluator.task.notices:
        say(console, f"note      {notice}")


def _who(standing: Standing) -> str:
    return f"{standing.method}, {standing.strategy}, {standing.target}"


def _write(done: Compared, checked: Mapping[str, Checked]) -> list[str]:
    """The tables of a comparison, over all its methods; names of the files."""
    config, dense = done.comparison.config, done.results[0].setup.dense
    rows: list[Row] = [row for result in done.results for row in rows_of(result)]
    frame = candidates_frame(rows, dense)
    tables = {"candidates.csv": frame, "pareto.csv": pareto(frame), "finalists.csv": finals_frame(rows, dense, checked)}
    for name, found in tables.items():
        write_csv(found, config.folder / name)
    return list(tables)


def _own_boards(done: Compared) -> list[Board]:
    """The task's leaderboard; none before a first finalist was tested."""
    setup = done.results[0].setup
    try:
        return [board_of(setup.config.ledger, setup.fingerprint, Path(setup.config.results))]
    except UserError:
        return []


# ---- leaderboard


def wide(file: IO[str]) -> Console:
    """A console for tables: where there is no terminal there is no width to keep to."""
    return PlainConsole(file=file) if file.isatty() else PlainConsole(file=file, width=PIPE_WIDTH)


def verify_and_show(
    location: str, results: Path, console: Console, *, tasks: Sequence[str], row: str, device: str | None
) -> tuple[dict[str, Any], bool]:
    """Re-evaluate a row's stored weights; returns the JSON form and whether every figure holds."""
    with ExitStack() as stack:
        ledgers = [stack.enter_context(Ledger.open_existing(location, task)) for task in find_tasks(location, tasks)]
        ledger, answer = find_row(ledgers, row)
        checks = verify(ledger, answer, results, device)
    holds = all(check.holds for check in checks)
    say(console, f"{answer.standing.row}  {ledger.title}, {_who(answer.standing)}", "bold")
    for check in checks:
        say(console, str(check))
    say(console, "the figure holds" if holds else "the figure does NOT hold")
    seeds = [plain_values({**vars(check), "holds": check.holds}) for check in checks]
    return {"row": answer.standing.row, "task": ledger.task, "holds": holds, "seeds": seeds}, holds

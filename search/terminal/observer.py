"""The screens of runs, exports and trainings, shown as the Python interface tells of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from models.tasks.metric import ACCURACY, Metric
from search.candidate import Candidate, Outcome
from search.engine.estimate import expected_candidates, forward_passes
from search.engine.outcomes import RunOutcomes
from search.engine.prepare import PreparedRun
from search.export.export import Exported
from search.kit.make_kit import Kit
from search.leaderboard.answers import Answer
from search.leaderboard.board import Board
from search.leaderboard.verify import Check
from search.observer import Observer, OnStep
from search.report.outputs import Written
from search.settings.config import RunConfig
from search.strategies.contract import Proposal
from search.terminal.announce import announce_run, announce_start
from search.terminal.console import PlainConsole, print_line
from search.terminal.exports import ExportBar, show_export
from search.terminal.kits import show_kit
from search.terminal.progress import Progress
from search.terminal.show import show_run_end


def console_observer(show: bool | Console) -> ConsoleObserver:
    """An observer that prints, on standard output if no console is given."""
    return ConsoleObserver(show if isinstance(show, Console) else PlainConsole())


class ConsoleObserver(Observer):
    """Shows on a console what it is told; one that is quiet shows nothing."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None

    def on_loading(self, config: RunConfig) -> None:
        self._console.print("loading the task, binding the methods, measuring the dense network ...", style="dim")

    def say(self, text: str) -> None:
        print_line(self._console, text, "dim")

    def on_prepared(self, run: PreparedRun) -> None:
        announce_run(run, self._console)

    def on_warm_start(self, run: PreparedRun) -> None:
        announce_start(run, self._console)

    def on_kit_written(self, kit: Kit) -> None:
        show_kit(kit, self._console)

    def on_recorded(self, run: PreparedRun, resume_command: str) -> None:
        print_line(self._console, f"resume    {resume_command}\n")

    @contextmanager
    def while_searching(self, run: PreparedRun) -> Iterator[None]:
        expected, work = expected_candidates(run), forward_passes(run)
        with Progress(self._console, expected, work, run.resources.workers) as self._progress:
            yield

    def on_candidate_started(self, candidate: Candidate) -> None:
        if self._progress is not None:
            self._progress.count_started(candidate)

    def on_outcome(self, proposal: Proposal, outcome: Outcome, from_ledger: bool) -> None:
        if self._progress is not None:
            self._progress.count_outcome(proposal, outcome, from_ledger)

    def on_all_judged(self) -> None:
        if self._progress is not None:
            self._progress.stop_waiting()

    def warn(self, text: str) -> None:
        """A warning on a line of its own, above the live table."""
        self._console.print(f"warning: {text}", style="yellow", highlight=False, markup=False, soft_wrap=True)

    def on_files_written(self, outcomes: RunOutcomes, written: Written, boards: Sequence[Board]) -> None:
        show_run_end(outcomes, written, boards, self._console)

    @contextmanager
    def while_exporting(self) -> Iterator[OnStep]:
        try:
            with ExportBar(self._console) as bar:
                yield bar
        except KeyboardInterrupt:
            print_line(self._console, "stopped   the same command goes on from the last whole epoch of its fine-tune")
            raise

    def on_exported(self, exported: Exported) -> None:
        show_export(exported, self._console)

    @contextmanager
    def while_training(self) -> Iterator[OnStep]:
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"),
                   TimeRemainingColumn())  # fmt: skip
        with RichProgress(*columns, console=self._console) as bar:
            job = bar.add_task("training")
            yield lambda done, steps: bar.update(job, completed=done, total=steps)

    def on_data_notice(self, notice: str) -> None:
        print_line(self._console, f"note      {notice}")

    def on_trained(self, weights: Path, metric: Metric, scores: Mapping[str, float]) -> None:
        search, test = (metric.value_text(scores[split]) for split in ("search", "test"))
        name = "" if metric == ACCURACY else f"{metric.name} "
        print_line(self._console, f"{weights}: {name}{search} on the search split, {test} on the test set")

    def on_row_verified(self, title: str, answer: Answer, checks: Sequence[Check]) -> None:
        standing = answer.standing
        heading = f"{standing.row}  {title}, {standing.method}, {standing.strategy}, {standing.target}"
        print_line(self._console, heading, "bold")
        for check in checks:
            print_line(self._console, str(check))
        holds = all(check.holds for check in checks)
        print_line(self._console, "the figure holds" if holds else "the figure does NOT hold")

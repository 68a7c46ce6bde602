"""The live table of a search: what is done, running, failed and best, and how long the rest will take."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from models.tasks.metric import ACCURACY, Metric
from models.wording import plural
from search.candidate import Candidate, Outcome
from search.strategies.contract import Proposal, Stage
from search.terminal.time_left import TimeLeft

TITLES: dict[Stage, str] = {
    "scan": "sensitivity scan",
    "rung": "rungs",
    "search": "candidates",
    "final": "tests of finalists",
}


@dataclass
class _Tally:
    expected: int = 0
    done: int = 0
    known: int = 0
    failed: int = 0
    best: float | None = None
    metric: Metric = ACCURACY


class Progress:
    """Counts outcomes by stage and shows them; on a plain stream it prints a line now and then instead."""

    LINE_EVERY = 15.0  # seconds between lines where nothing can be redrawn
    FIRST_LINE = 5.0  # seconds after which workers that have not started yet are spoken of there

    def __init__(
        self, console: Console, expected: dict[Stage, int], work: dict[Stage, float], workers: int = 0
    ) -> None:
        """
        Args:
            expected: candidates per stage, as far as known.
            work: rough cost of one candidate per stage, in any unit; for stages that have no outcome yet.
            workers: processes that judge candidates; 0 judges in this one.
        """
        self._console, self._workers = console, workers
        self._time_left = TimeLeft(work, workers)
        self._tallies = {stage: _Tally(expected=count) for stage, count in expected.items() if count}
        self._start = self._last_line = time.monotonic()
        self._starting = workers > 0  # until a candidate is taken up; workers import torch and load the data first
        self._through = threading.Event()
        self._lines = threading.Thread(target=self._print_while_starting, daemon=True)
        self._running = set[Candidate]()
        self._counted = set[Candidate]()
        self._live = Live(console=console, get_renderable=self._build_table, refresh_per_second=4, transient=False)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        elif self._starting:
            self._lines.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._through.set()
        if self._lines.is_alive():
            self._lines.join()
        if self._console.is_terminal:
            self._live.stop()
        else:
            self._print_line()

    def count_started(self, candidate: Candidate) -> None:
        """A worker has taken a candidate up."""
        self._starting = False
        self._running.add(candidate)
        self._time_left.note_started(candidate, time.monotonic())

    def count_outcome(self, proposal: Proposal, outcome: Outcome, from_ledger: bool) -> None:
        """Count an outcome once; one from the ledger says nothing about speed."""
        candidate = proposal.candidate
        if candidate in self._counted:
            return  # several strategies asked for it
        self._counted.add(candidate)
        self._running.discard(candidate)
        tally = self._tallies.setdefault(proposal.stage, _Tally())
        tally.done += 1
        tally.known += from_ledger
        tally.failed += outcome.status == "failed"
        tally.expected = max(tally.expected, tally.done)  # which was an estimate
        # A scan compresses one site alone, without a fine-tune: its scores are no candidate's.
        if outcome.score is not None and proposal.stage != "scan":
            scores = [score for score in (tally.best, outcome.score) if score is not None]
            tally.best, tally.metric = max(scores, key=outcome.metric.worth), outcome.metric
        if not from_ledger:
            self._time_left.note_outcome(proposal.stage, candidate, outcome.seconds, time.monotonic())
        if not self._console.is_terminal and time.monotonic() - self._last_line > self.LINE_EVERY:
            self._print_line()

    def stop_waiting(self) -> None:
        """Nothing is left: what was expected beyond what was done turned out to be known, or the same."""
        for tally in self._tallies.values():
            tally.expected = tally.done

    def seconds_left(self) -> float | None:
        """Until the last outcome; None as long as nobody can say (`time_left.py`)."""
        return self._seconds_of(list(self._tallies))

    def _seconds_of(self, stages: Sequence[Stage]) -> float | None:
        """Until the last outcome of some stages."""
        pending = {stage: self._tallies[stage].expected - self._tallies[stage].done for stage in stages}
        running: dict[Stage, list[Candidate]] = {}
        for candidate in list(self._running):  # a live table asks from another thread
            running.setdefault(_stage_of(candidate), []).append(candidate)
        return self._time_left.seconds_left(pending, running, time.monotonic())

    def _print_while_starting(self) -> None:
        """A line now and then, until the first worker takes a candidate up: nothing else happens meanwhile."""
        wait = self.FIRST_LINE
        while not self._through.wait(wait) and self._is_starting():
            self._print_line()
            wait = self.LINE_EVERY

    def _is_starting(self) -> bool:
        return self._starting and any(tally.done < tally.expected for tally in self._tallies.values())

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        counts = [f"{TITLES[stage]} {tally.done}/{tally.expected}" for stage, tally in self._tallies.items()]
        self._console.print(", ".join(counts) + f", {self._clock_text()}", highlight=False, soft_wrap=True)

    def _clock_text(self) -> str:
        elapsed = duration_text(time.monotonic() - self._start)
        if self._is_starting():
            return f"starting {plural(self._workers, 'worker')}, {elapsed}"
        pending = [stage for stage, tally in self._tallies.items() if tally.done < tally.expected]
        if not pending:
            return f"{elapsed} elapsed"
        seconds_left, of_stage = self.seconds_left(), ""
        if seconds_left is None:  # what comes later may not be known yet: stages follow each other
            seconds_left, of_stage = self._seconds_of(pending[:1]), f" for the {TITLES[pending[0]]}"
        if seconds_left is None:
            return f"{elapsed} elapsed, time left told when it can be"
        return f"{elapsed} elapsed, about {duration_text(seconds_left)} left{of_stage}"

    def _build_table(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("stage", "done", "known", "running", "failed", "best"):
            table.add_column(column, justify="left" if column == "stage" else "right")
        for stage, tally in self._tallies.items():
            running = sum(_stage_of(candidate) == stage for candidate in list(self._running))
            table.add_row(
                TITLES[stage],
                f"{tally.done}/{tally.expected}",
                str(tally.known or ""),
                str(running or ""),
                str(tally.failed or ""),
                "" if tally.best is None else tally.metric.value_text(tally.best),
            )
        return Group(table, Text(self._clock_text(), style="dim"))


def _stage_of(candidate: Candidate) -> Stage:
    if candidate.judge == "test":
        return "final"
    if candidate.until is not None:
        return "rung"
    return "scan" if candidate.images is not None else "search"


def duration_text(seconds: float) -> str:
    """`12 s`, `3 min 05 s`, `2 h 10 min`."""
    minutes, seconds_over = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{seconds_over} s"
    if minutes < 60:
        return f"{minutes} min {seconds_over:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"

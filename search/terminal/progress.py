"""The live table of a search: what is done, running, failed and best, and how long the rest will take."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from models.tasks.metric import ACCURACY, Metric
from search.candidate import Candidate, Outcome
from search.strategies.contract import Proposal, Stage

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
    judged: int = 0  # by this search, not known before
    seconds: float = 0.0  # of workers, for those


class Progress:
    """Counts outcomes by stage and shows them; on a plain stream it prints a line now and then instead.

    Time left is told from the outcomes of this search alone, once there are a few: nothing measured beforehand says
    how busy the machine will be.
    """

    LINE_EVERY = 15.0  # seconds between lines where nothing can be redrawn
    PACE_AFTER = 3  # outcomes; the first ones pay for caches and compilation

    def __init__(self, console: Console, expected: dict[Stage, int], work: dict[Stage, float]) -> None:
        """
        Args:
            expected: candidates per stage, as far as known.
            work: rough cost of one candidate per stage, in any unit; for stages that have no outcome yet.
        """
        self._console, self._work = console, work
        self._tallies = {stage: _Tally(expected=count) for stage, count in expected.items() if count}
        self._start = self._last_line = time.monotonic()
        self._first: float | None = None  # when the first candidate started; before that, workers start
        self._running = set[Candidate]()
        self._counted = set[Candidate]()
        self._live = Live(console=console, get_renderable=self._build_table, refresh_per_second=4, transient=False)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()
        else:
            self._print_line()

    def count_started(self, candidate: Candidate) -> None:
        """A worker has taken a candidate up."""
        self._first = self._first or time.monotonic()
        self._running.add(candidate)

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
            tally.judged += 1
            tally.seconds += outcome.seconds
        if not self._console.is_terminal and time.monotonic() - self._last_line > self.LINE_EVERY:
            self._print_line()

    def stop_waiting(self) -> None:
        """Nothing is left: what was expected beyond what was done turned out to be known, or the same."""
        for tally in self._tallies.values():
            tally.expected = tally.done

    def seconds_left(self) -> float | None:
        """From the pace so far; None before enough was measured to tell."""
        tallies = self._tallies
        spent = sum(tally.seconds for tally in tallies.values())
        if self._first is None or not spent or sum(tally.judged for tally in tallies.values()) < self.PACE_AFTER:
            return None
        # Stages that have no outcome yet are told from the pace of the others and their rough cost.
        pace = spent / sum(self._work.get(stage, 1.0) * tally.judged for stage, tally in tallies.items())
        remaining = sum(
            (tally.expected - tally.done)
            * (tally.seconds / tally.judged if tally.judged else pace * self._work.get(stage, 1.0))
            for stage, tally in tallies.items()
        )
        return (time.monotonic() - self._first) / spent * remaining  # several workers spend seconds at once

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        counts = [f"{TITLES[stage]} {tally.done}/{tally.expected}" for stage, tally in self._tallies.items()]
        self._console.print(", ".join(counts) + f", {self._clock_text()}", highlight=False, soft_wrap=True)

    def _clock_text(self) -> str:
        seconds_left = self.seconds_left()
        elapsed = duration_text(time.monotonic() - self._start)
        if seconds_left is None and any(tally.done < tally.expected for tally in self._tallies.values()):
            return f"{elapsed} elapsed, time left told after the first outcomes"
        return f"{elapsed} elapsed" + (f", about {duration_text(seconds_left)} left" if seconds_left else "")

    def _build_table(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("stage", "done", "known", "running", "failed", "best"):
            table.add_column(column, justify="left" if column == "stage" else "right")
        for stage, tally in self._tallies.items():
            running = sum(_stage_of(candidate) == stage for candidate in self._running)
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

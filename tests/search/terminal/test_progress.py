"""What the live table and the lines say, on a made-up clock; `test_time_left.py` has the estimate itself."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from search.allocation.targets import parse_target
from search.candidate import Candidate, Outcome
from search.recipe import Recipe
from search.strategies.contract import Proposal, Stage
from search.terminal import progress as module
from search.terminal.progress import Progress


class Clock:
    """Stands in for the time module: it goes on when told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def proposal(stage: Stage, number: int) -> Proposal:
    return Proposal(
        Candidate(method="l1", allocation={}, seed=number, recipe=Recipe(epochs=1)), stage, "x", parse_target("0.5")
    )


def shown(workers: int = 0, **expected: int) -> Progress:
    counts: dict[Stage, int] = {"scan": 0, "search": 0, "final": 0, **expected}  # type: ignore[typeddict-item]
    return Progress(Console(file=io.StringIO()), counts, {"scan": 1.0, "search": 4.0, "final": 20.0}, workers)


def finish(progress: Progress, clock: Clock, stage: Stage, count: int, seconds: float, *, known: bool = False) -> None:
    """Outcomes one after another on one worker."""
    for number in range(count):
        asked = proposal(stage, number + 1000 * len(stage))
        if not known:
            progress.count_started(asked.candidate)
            clock.now += seconds
        progress.count_outcome(asked, Outcome(status="ok", accuracy=0.5, seconds=seconds), known)


def test_nothing_is_guessed_before_outcomes_are_in(clock: Clock) -> None:
    progress = shown(search=10)
    clock.now += 60  # workers start
    finish(progress, clock, "search", 2, 5.0)
    assert progress.seconds_left() is None


def test_what_the_ledger_knew_tells_nothing_of_the_pace(clock: Clock) -> None:
    progress = shown(search=10)
    finish(progress, clock, "search", 6, 300.0, known=True)
    assert progress.seconds_left() is None


def test_running_candidates_have_less_left(clock: Clock) -> None:
    """Five of 8 s are through; of the sixth, the last, 6 s have passed."""
    progress = shown(search=6)
    finish(progress, clock, "search", 5, 8.0)
    progress.count_started(proposal("search", 1).candidate)
    assert progress.seconds_left() == pytest.approx(8, rel=0.1)
    clock.now += 6
    assert progress.seconds_left() == pytest.approx(2, rel=0.5)


def test_workers_that_overlap_shorten_what_is_left(clock: Clock) -> None:
    progress = shown(workers=2, search=16)
    for first in range(0, 12, 2):
        pair = [proposal("search", first), proposal("search", first + 1)]
        for asked in pair:
            progress.count_started(asked.candidate)
        clock.now += 10
        for asked in pair:
            progress.count_outcome(asked, Outcome(status="ok", accuracy=0.5, seconds=10.0), False)
    assert progress.seconds_left() == pytest.approx(20, rel=0.1)  # four more, two at a time


def test_the_line_says_that_the_time_left_is_not_known_yet(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(Console(file=stream, width=200), {"search": 6}, {"search": 1.0}) as progress:
        clock.now += Progress.LINE_EVERY + 1
        finish(progress, clock, "search", 5, 20.0)
    first, *_, last = stream.getvalue().splitlines()
    assert first.endswith("time left told when it can be")
    assert last == "candidates 5/6, 1 min 56 s elapsed, about 20 s left"


def test_a_stage_is_foretold_where_later_ones_cannot_be(clock: Clock) -> None:
    """Fifteen of a scan take 2 s each; whether a finalist takes twenty times as long, nobody knows."""
    stream = io.StringIO()
    with Progress(Console(file=stream, width=200), {"scan": 20, "final": 9}, {"scan": 1.0, "final": 20.0}) as progress:
        finish(progress, clock, "scan", 15, 2.0)
    assert stream.getvalue().splitlines()[-1].endswith("30 s elapsed, about 10 s left for the sensitivity scan")


def test_workers_show_life_while_they_start(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be redrawn: a line now and then, on the real clock, until a candidate is taken up."""
    monkeypatch.setattr(Progress, "FIRST_LINE", 0.01)
    monkeypatch.setattr(Progress, "LINE_EVERY", 0.05)
    stream = io.StringIO()
    clock.now = 0.0
    with Progress(Console(file=stream, width=200), {"search": 2}, {"search": 1.0}, workers=2) as progress:
        clock.now = 12.0
        deadline = time.monotonic() + 10
        while stream.getvalue().count("\n") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        progress.count_started(proposal("search", 1).candidate)
        time.sleep(0.15)
        lines = stream.getvalue().splitlines()
        assert set(lines[1:]) == {"candidates 0/2, starting 2 workers, 12 s"}
        assert len(lines) <= 4  # none follows once one has started


def test_known_outcomes_need_no_workers(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "FIRST_LINE", 0.2)
    stream = io.StringIO()
    with Progress(Console(file=stream, width=200), {"search": 2}, {"search": 1.0}, workers=2) as progress:
        finish(progress, clock, "search", 2, 20.0, known=True)
        time.sleep(0.3)
    assert "starting" not in stream.getvalue()

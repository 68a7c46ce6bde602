"""Time left comes from what was measured: a made-up clock, and the arithmetic done by hand."""

from __future__ import annotations

import io

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


def shown(**expected: int) -> Progress:
    counts: dict[Stage, int] = {"scan": 0, "search": 0, "final": 0, **expected}  # type: ignore[typeddict-item]
    return Progress(Console(file=io.StringIO()), counts, {"scan": 1.0, "search": 4.0, "final": 20.0})


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


def test_a_stage_takes_its_own_measured_pace_and_others_are_scaled_from_it(clock: Clock) -> None:
    progress = shown(search=5, final=2)
    clock.now += 60
    finish(progress, clock, "search", 4, 8.0)
    # one more of 8 s; 2 s for a unit of work, so two finalists of 20 units each
    assert progress.seconds_left() == pytest.approx(8 + 2 * 20 * 2)
    finish(progress, clock, "final", 1, 13.0)
    assert progress.seconds_left() == pytest.approx(8 + 13)  # the finalist's own pace, no longer the ratio


def test_workers_that_overlap_shorten_what_is_left(clock: Clock) -> None:
    progress = shown(search=8)
    for first in range(0, 4, 2):
        pair = [proposal("search", first), proposal("search", first + 1)]
        for asked in pair:
            progress.count_started(asked.candidate)
        clock.now += 10
        for asked in pair:
            progress.count_outcome(asked, Outcome(status="ok", accuracy=0.5, seconds=10.0), False)
    assert progress.seconds_left() == pytest.approx(20)  # four more, two at a time


def test_the_line_says_that_the_time_left_is_not_known_yet(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(Console(file=stream, width=200), {"search": 4}, {"search": 1.0}) as progress:
        clock.now += Progress.LINE_EVERY + 1
        finish(progress, clock, "search", 3, 20.0)
        clock.now += 20
    first, *_, last = stream.getvalue().splitlines()
    assert first.endswith("time left told after the first outcomes")
    assert last.endswith("about 27 s left")  # 80 s for three: one more

"""Searches are played with made-up durations: what is said of the time left is held against what it then takes."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pytest

from search.candidate import Candidate
from search.recipe import Recipe
from search.strategies.contract import Stage
from search.terminal.time_left import TimeLeft

WORK: dict[Stage, float] = {"scan": 1.0, "search": 4.0, "final": 20.0}
Duration = Callable[[Stage, int], float]
"""Stage, and how many candidates the worker has judged before -> seconds."""
Stages = Sequence[tuple[Stage, int]]


class Said(NamedTuple):
    """What is said when a candidate starts or ends, and what is true then; seconds."""

    estimate: float | None
    truth: float
    passed: float


def play(stages: Stages, workers: int, duration: Duration, *, delay: float = 0.0) -> list[Said]:
    """A search whose stages follow each other, each worker taking up what comes next.

    Args:
        delay: seconds by which each worker starts later than the one before.
    """
    time_left, left = TimeLeft(WORK, workers), dict(stages)
    events: list[tuple[float, int, Stage, Candidate, float]] = []
    numbers = itertools.count()
    free, end = [(delay * worker, worker, 0) for worker in range(workers)], 0.0
    for stage, count in stages:
        begin = end
        for _ in range(count):
            at, worker, judged = heapq.heappop(free)
            candidate = Candidate(method="l1", allocation={}, seed=next(numbers), recipe=Recipe(epochs=1))
            start, seconds = max(at, begin), duration(stage, judged)
            events += [(start, 1, stage, candidate, seconds), (start + seconds, 0, stage, candidate, seconds)]
            heapq.heappush(free, (start + seconds, worker, judged + 1))
            end = max(end, start + seconds)
    running: dict[Stage, list[Candidate]] = {stage: [] for stage, _ in stages}
    said = []
    for now, starts, stage, candidate, seconds in sorted(events, key=lambda event: event[:2]):
        if starts:
            time_left.note_started(candidate, now)
            running[stage].append(candidate)
        else:
            running[stage].remove(candidate)
            left[stage] -= 1
            time_left.note_outcome(stage, candidate, seconds, now)
        said.append(Said(time_left.seconds_left(left, running, now), end - now, now / end))
    return said


def first_estimate(said: list[Said]) -> Said:
    return next(each for each in said if each.estimate is not None)


def is_close(said: Said) -> bool:
    """Within a factor of two, or five seconds."""
    assert said.estimate is not None
    return said.truth / 2 <= said.estimate <= said.truth * 2 or abs(said.estimate - said.truth) <= 5


def random_durations(name: str, rng: np.random.Generator) -> Duration:
    """How long candidates take on such a machine."""
    setup, per_work = rng.uniform(0, 2), rng.uniform(0.1, 1)
    durations: dict[str, Duration] = {
        "cold": lambda stage, judged: (40 if judged == 0 else 5) * rng.lognormal(0, 0.2),
        "busy": lambda stage, judged: 15 * rng.lognormal(0, 0.4),
        "of different lengths": lambda stage, judged: rng.uniform(2, 12),
        "with much to set up": lambda stage, judged: (
            (3 if judged == 0 else 1) * (setup + per_work * WORK[stage]) * rng.lognormal(0, 0.2)
        ),
    }
    return durations[name]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("cold", [("search", 24)]),
        ("busy", [("search", 40)]),
        ("of different lengths", [("search", 40)]),
        ("with much to set up", [("scan", 60), ("search", 8), ("final", 2)]),
    ],
)
def test_the_first_estimate_is_within_a_factor_of_two(name: str, stages: Stages, workers: int) -> None:
    first = [
        first_estimate(play(stages, workers, random_durations(name, np.random.default_rng(seed)), delay=2.0))
        for seed in range(40)
    ]
    assert np.mean([is_close(said) for said in first]) >= 0.95
    assert np.median([said.passed for said in first]) < 0.75  # it is not only said when all is over


def test_even_candidates_are_foretold_exactly() -> None:
    """Of 20 candidates of 5 s each, the estimate nears what is left; it is said after the first that was cold."""
    said = play([("search", 20)], 1, lambda stage, judged: 5.0)
    assert first_estimate(said).passed <= 0.25
    for each in said:
        if each.estimate is not None:
            assert each.estimate == pytest.approx(each.truth, rel=0.15, abs=1e-6)


def test_cold_candidates_tell_nothing_of_warm_ones() -> None:
    """Two workers whose first candidates take 40 s: nothing is said before others are through."""
    said = play([("search", 12)], 2, lambda stage, judged: 5.0 if judged else 40.0)
    assert all(each.estimate is None for each in said if each.truth >= 25)


def test_a_stage_that_nobody_has_seen_keeps_the_estimate_back() -> None:
    """A scan alone cannot tell whether a finalist, with twenty times its work, takes 2 s or 40 s."""
    said = play([("scan", 20), ("final", 4)], 1, lambda stage, judged: {"scan": 2.0, "final": 40.0}[stage])
    assert all(each.estimate is None for each in said if each.truth > 160)
    assert all(each.estimate is not None for each in said if each.truth < 80)


def test_long_candidates_tell_of_longer_ones() -> None:
    """Where a candidate takes minutes, the seconds that do not grow with its work hardly matter."""
    said = play([("search", 4), ("final", 2)], 1, lambda stage, judged: 100.0 * WORK[stage] / WORK["search"])
    estimate = first_estimate(said)
    assert estimate.truth >= 1000
    assert estimate.estimate == pytest.approx(estimate.truth, rel=0.5)


def test_candidates_that_fail_at_once_say_nothing_of_durations() -> None:
    """One that took its worker along in an earlier run is failed without being judged: in no time, never started."""
    time_left = TimeLeft(WORK, 1)
    failing, good = (Candidate(method="l1", allocation={}, seed=seed) for seed in (0, 1))
    time_left.note_outcome("search", failing, 0.0, 0.0)
    assert time_left.seconds_left({"search": 9, "final": 3}, {}, 1.0) is None
    assert time_left.seconds_left({"search": 9}, {"search": [good]}, 1.0) is None, "taken up, and not told of yet"
    time_left.note_started(good, 1.0)
    time_left.note_outcome("search", good, 10.0, 11.0)
    assert time_left.seconds_left({"search": 0}, {"search": [good]}, 11.0) == 0

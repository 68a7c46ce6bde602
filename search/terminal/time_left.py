"""How long the rest of a run will take, told as soon as it can be told within a factor of two, and no earlier.

Nothing measured beforehand says how busy a machine is, and the first candidate of every worker pays for caches. So all
that enters is kept as a span, the least and the most that it may come to by what was measured:

- of a stage with outcomes: the mean duration of all, of the later half and of the last quarter, which differ while the
  machine warms up, or gets busy, and a margin for how few they are and how much they differ;
- of a stage without any: a straight line over work through two other stages; with one other stage, anything between all
  of its time growing with work, and some seconds of it being the same whatever the work;
- of workers: how many were busy at once, since the beginning and of late.

Time left is the geometric mean of the sums of both ends, if one is less than three times the other, or their middle if
they are seconds apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from search.candidate import Candidate
from search.strategies.contract import Stage

WIDEST = 3.0  # greatest over least that is told; the mean is then within 1.8 of both, which leaves room for luck
COLD = 60.0  # seconds that the first candidate of a worker may take longer than later ones
SETUP = 10.0  # seconds of a candidate, at most, that do not grow with its work
FITTED = 1.4  # how far off a straight line through two stages may be
NEAR = 10.0  # seconds between least and most that are told in any case
SPREAD, SPREAD_WEIGHT = 0.75, 2  # relative spread of durations before any is known, and for how many it stands


class Span(NamedTuple):
    """The least and the most that something may come to."""

    least: float
    most: float


class TimeLeft:
    """Told of starts and outcomes with the time at which they happen, in seconds of any one clock.

    Another thread may ask while one tells.
    """

    def __init__(self, work: Mapping[Stage, float], workers: int) -> None:
        """
        Args:
            work: rough cost of one candidate per stage, in any unit.
            workers: how many candidates may be judged at the same time.
        """
        self._work, self._workers = work, max(workers, 1)
        self._started: dict[Candidate, float] = {}
        self._first: set[Candidate] = set()  # as many as there are workers
        self._durations: dict[Stage, list[float]] = {}
        self._cold: dict[Stage, list[float]] = {}
        self._spent = 0.0  # by workers, on candidates that are through
        self._busy: list[tuple[float, float]] = []  # time, and worker seconds spent until then

    def note_started(self, candidate: Candidate, now: float) -> None:
        """A worker has taken a candidate up."""
        if not self._busy:
            self._busy.append((now, 0.0))
        self._started[candidate] = now
        if len(self._first) < self._workers:
            self._first.add(candidate)

    def note_outcome(self, stage: Stage, candidate: Candidate, seconds: float, now: float) -> None:
        """A candidate was judged by this run, which took a worker so long."""
        self._started.pop(candidate, None)
        self._spent += seconds
        if seconds > 0:  # a candidate that took its worker along in an earlier run fails at once
            (self._cold if candidate in self._first else self._durations).setdefault(stage, []).append(seconds)
        self._busy.append((now, self._worker_seconds(now)))

    def seconds_left(
        self, pending: Mapping[Stage, int], running: Mapping[Stage, Sequence[Candidate]], now: float
    ) -> float | None:
        """The seconds until all pending candidates, the running ones among them, are through; None if nobody can say.

        Args:
            pending: stage -> candidates without an outcome.
        """
        parallel = self._parallel_span(now)
        least = most = 0.0
        for stage, count in pending.items():
            if not count:
                continue
            duration = self._duration_span(stage)
            if duration is None or parallel is None:
                return None
            passed = [now - self._started.get(candidate, now) for candidate in running.get(stage, ())]
            shortest, longest = (
                max(count - len(passed), 0) * seconds + sum(max(seconds - done, 0.0) for done in passed)
                for seconds in duration
            )
            least += shortest / min(parallel.most, count)
            most += longest / min(parallel.least, count)
        if most - least <= NEAR:
            return (least + most) / 2
        return None if most >= WIDEST * least else math.sqrt(least * most)

    def _duration_span(self, stage: Stage) -> Span | None:
        """Of one candidate of a stage; None if there is no outcome of any."""
        measured = [*self._durations, *self._cold]
        if not measured:
            return None
        if stage in measured:
            return self._measured_span(stage)
        # By work, so that the last two are those that most of the time goes to.
        work = self._work.get(stage, 1.0)
        by_work = sorted((self._work.get(other, 1.0), _mean(times)) for other, times in list(self._durations.items()))
        if len(by_work) > 1 and by_work[-2][0] < by_work[-1][0]:
            predicted = _line_through(by_work[-2], by_work[-1], work)
            return Span(predicted / FITTED, predicted * FITTED)
        other = max(measured, key=lambda other: self._work.get(other, 1.0))
        ratio, span = work / self._work.get(other, 1.0), self._measured_span(other)
        setups = [min(SETUP, seconds) for seconds in span]
        ends = [seconds * ratio for seconds in span]
        ends += [setup + (seconds - setup) * ratio for seconds, setup in zip(span, setups, strict=True)]
        return Span(min(ends), max(ends))

    def _measured_span(self, stage: Stage) -> Span:
        if warm := self._durations.get(stage):
            count = len(warm)
            means = [_mean(warm[-length:]) for length in (count, -(-count // 2), -(-count // 4))]
            # Two standard errors. Of several at a time, short ones come in first: it takes more of them.
            margin = 1 + 2 * self._relative_spread() * math.sqrt(self._workers / count)
            return Span(min(means) / margin, max(means) * margin)
        cold = _mean(self._cold[stage])
        return Span(max(cold - COLD, 0.0), cold)

    def _relative_spread(self) -> float:
        """Standard deviation of durations over the mean of their stage, of all stages alike."""
        squares, freedom = SPREAD_WEIGHT * SPREAD**2, float(SPREAD_WEIGHT)
        for times in list(self._durations.values()):
            squares += sum((seconds / _mean(times) - 1) ** 2 for seconds in times)
            freedom += len(times) - 1
        return math.sqrt(squares / freedom)

    def _parallel_span(self, now: float) -> Span | None:
        """How many candidates are judged at the same time; None before the first outcome."""
        if len(self._busy) < 2:
            return None
        spent = self._worker_seconds(now)
        marks = (self._busy[0], self._busy[(len(self._busy) - 1) // 2])
        counts = [(spent - before) / (now - start) for start, before in marks if now > start]
        counts = [min(count, self._workers) for count in counts if count > 0]
        return Span(min(counts), max(counts)) if counts else None

    def _worker_seconds(self, now: float) -> float:
        return self._spent + sum(now - start for start in list(self._started.values()))


def _line_through(one: tuple[float, float], other: tuple[float, float], work: float) -> float:
    """Seconds at some work on the line through two points (work, seconds), which neither falls nor starts below 0."""
    slope = max((other[1] - one[1]) / (other[0] - one[0]), 0.0)
    start = other[1] - slope * other[0]
    return start + slope * work if start > 0 else other[1] / other[0] * work


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

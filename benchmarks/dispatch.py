"""What Ray costs for each candidate, and what a second worker brings; against the same candidates in process.

    python benchmarks/dispatch.py [--candidates 100] [--work 0.5] [--workers 2] [--json]

`overhead` is wall time per candidate between the first and the last outcome, less the candidate's own work; `scaling`
is the rate of CPU-bound candidates with several workers by that with one, beside it what bare processes gain (on a
busy machine that is less than their number). The starting of Ray is a figure of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

import ray
import torch

from search.candidate import Candidate, Outcome
from search.dispatch.contract import Resources
from search.dispatch.loop import dispatch
from search.dispatch.ray_session import ray_session
from search.machine.host import count_cores

WARM_UP = 10  # first outcomes, while workers are still starting, that no rate counts


class Repeated:
    """The same work many times; when each outcome came."""

    def __init__(self, count: int, work: float) -> None:
        self._count, self._work, self._asked = count, work, 0
        self.times: list[float] = []
        self.workers: set[int] = set()

    def ask(self) -> Candidate | None:
        if self._asked == self._count:
            return None
        self._asked += 1
        settings = {f"layer{i}.conv": {"ratio": 0.5} for i in range(20)}  # as long as ResNet-20's
        return Candidate(method="fake", allocation=settings, seed=self._asked, options={"work": self._work})

    def tell(self, candidate: Candidate, outcome: Outcome) -> None:
        assert outcome.status == "ok", outcome.reason
        self.times.append(time.perf_counter())
        self.workers.add(outcome.notes["pid"])

    @property
    def done(self) -> bool:
        return len(self.times) == self._count

    def per_candidate(self) -> float:
        """Mean seconds between outcomes after the warm-up."""
        return (self.times[-1] - self.times[WARM_UP - 1]) / (len(self.times) - WARM_UP)


def evaluator() -> Callable[[Candidate], Outcome]:
    """Spins for as much processor time as the candidate asks for."""

    def evaluate(candidate: Candidate) -> Outcome:
        end = time.process_time() + candidate.options["work"]
        while time.process_time() < end:
            pass
        return Outcome(status="ok", accuracy=0.5, loss=1.0, flops=1, notes={"pid": os.getpid()})

    return evaluate


def measure(count: int, work: float, workers: int) -> tuple[float, float, int]:
    """(seconds to the first outcome, seconds per candidate, workers that took part)."""
    source = Repeated(count, work)
    start = time.perf_counter()
    dispatch(source, evaluator, Resources(workers=workers))
    return source.times[0] - start, source.per_candidate(), len(source.workers)


def _spin(seconds: float) -> float:
    """Wall seconds that so much processor time takes."""
    start, end = time.perf_counter(), time.process_time() + seconds
    while time.process_time() < end:
        pass
    return time.perf_counter() - start


def plain_scaling(workers: int, seconds: float = 2.0) -> float:
    """What bare processes gain on this machine as loaded as it is now: the bound for `scaling`."""
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        pool.map(_spin, [0.01] * workers, chunksize=1)  # all of them started
        alone = pool.apply(_spin, (seconds,))
        together = max(pool.map(_spin, [seconds] * workers, chunksize=1))
    return workers * alone / together


def report(count: int, work: float, workers: int, repeats: int) -> dict[str, object]:
    """All figures, in milliseconds and ratios."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    figures: dict[str, list[float]] = {}
    begin = time.perf_counter()
    with ray_session(Resources(workers=workers)) if workers else nullcontext():
        start_ray = time.perf_counter() - begin
        for _ in range(repeats):
            _, here, _ = measure(count, 0.0, 0)
            first, there, _ = measure(count, 0.0, 1)
            _, one, _ = measure(count // 2, work, 1)
            _, several, used = measure(count // 2, work, workers)
            rows = {"in_process_ms": here * 1e3, "ray_ms": there * 1e3, "first_outcome_s": first,
                    "one_worker_ms": one * 1e3, "workers_ms": several * 1e3, "scaling": one / several,
                    "plain_scaling": plain_scaling(workers),
                    "workers_used": used}  # fmt: skip
            for name, value in rows.items():
                figures.setdefault(name, []).append(value)
    result: dict[str, object] = {name: round(statistics.median(values), 2) for name, values in figures.items()}
    overhead = statistics.median(figures["ray_ms"]) - statistics.median(figures["in_process_ms"])
    versions = {"python": platform.python_version(), "ray": ray.__version__, "torch": torch.__version__}
    return {"overhead_ms": round(overhead, 2), **result, "start_ray_s": round(start_ray, 2), "workers": workers,
            "candidates": count, "work_ms": work * 1e3, "repeats": repeats, "cores": count_cores(),
            "load": [round(load, 1) for load in os.getloadavg()], "host": platform.platform(),
            "versions": versions}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=100, help="per measurement, at least 40")
    parser.add_argument("--work", type=float, default=0.5, help="processor seconds of a candidate, for the scaling")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="the median of so many is shown")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args()
    if arguments.candidates < 4 * WARM_UP or arguments.workers < 1 or arguments.repeats < 1:
        parser.error(f"at least {4 * WARM_UP} candidates, one worker and one repeat")
    figures = report(arguments.candidates, arguments.work, arguments.workers, arguments.repeats)
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:16} {value}")


if __name__ == "__main__":
    main()

"""What a worker's memory does over hundreds of candidates: resident memory after every so many of them.

    python benchmarks/memory.py [--candidates 400] [--workers 0] [--network small] [--data digits] [--epochs 0.2]

Every candidate is another allocation (levels drawn at random per site), judged as a search judges it; with
`--workers 1` by a Ray worker, else in this process. Resident memory is read from /proc, so this runs on Linux alone.
The `growth` is what the mean of the last ten candidates has more than that of the ten around the 100th.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.task_config import TaskConfig
from search.candidate import Candidate, Outcome
from search.dispatch.contract import Resources
from search.dispatch.loop import dispatch
from search.judge.bind import bind_method
from search.judge.evaluate import Evaluator, load_evaluator
from search.machine.host import host_facts
from search.recipe import Recipe

MIB = 2**20
SETTLED = 100  # candidates after which memory should not rise any more


class MemoryEvaluator:
    """An evaluator that notes what memory its process holds after each candidate."""

    def __init__(self, config: TaskConfig) -> None:
        self._evaluate: Evaluator = load_evaluator(config, device="cpu")

    def __call__(self, candidate: Candidate) -> Outcome:
        outcome = self._evaluate(candidate)
        notes: dict[str, Any] = {"pid": os.getpid(), "rss": resident_bytes()}
        return outcome.model_copy(update={"notes": notes})


def resident_bytes() -> int:
    """Memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class RandomAllocations:
    """A source of candidates with random levels; keeps what memory each outcome reports."""

    def __init__(self, config: TaskConfig, method: str, recipe: Recipe, count: int) -> None:
        evaluator = Evaluator(config, device="cpu")
        self._compressor = bind_method(evaluator.task, method, {})
        self._method, self._recipe, self._count, self._asked = method, recipe, count, 0
        self._random = np.random.default_rng(0)
        self.resident: list[int] = []
        self.pids: set[int] = set()

    def ask(self) -> Candidate | None:
        if self._asked == self._count:
            return None
        self._asked += 1
        levels = [int(self._random.integers(len(site.settings))) for site in self._compressor.sites]
        allocation = self._compressor.allocation(np.array(levels, dtype=np.intp))
        return Candidate(method=self._method, allocation=allocation, recipe=self._recipe, seed=self._asked)

    def tell(self, candidate: Candidate, outcome: Outcome) -> None:
        assert outcome.status == "ok", outcome.reason
        self.resident.append(outcome.notes["rss"])
        self.pids.add(outcome.notes["pid"])
        done = len(self.resident)
        if done in (1, 10) or done % 50 == 0:
            print(f"{done:5}  {self.resident[-1] / MIB:8.1f} MiB", flush=True)

    @property
    def done(self) -> bool:
        return len(self.resident) == self._count

    def growth(self) -> float:
        """MiB between ten candidates around the 100th and the last ten."""
        middle = self.resident[SETTLED - 5 : SETTLED + 5]
        return (statistics.mean(self.resident[-10:]) - statistics.mean(middle)) / MIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=400)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--network", default="small")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--method", default="l1")
    parser.add_argument("--epochs", type=float, default=0.2)
    arguments = parser.parse_args()
    if arguments.candidates < SETTLED + 10:
        parser.error(f"--candidates must be at least {SETTLED + 10}")
    config = TaskConfig(network=arguments.network, data=arguments.data)
    source = RandomAllocations(config, arguments.method, Recipe(epochs=arguments.epochs), arguments.candidates)
    if arguments.workers:
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(sys.modules[__name__])
    make: Callable[[], MemoryEvaluator] = partial(MemoryEvaluator, config)
    dispatch(source, make, Resources(workers=arguments.workers))
    print(f"growth after {SETTLED}: {source.growth():.1f} MiB; processes: {len(source.pids)}")
    print(host_facts(torch.device("cpu")))


if __name__ == "__main__":
    main()

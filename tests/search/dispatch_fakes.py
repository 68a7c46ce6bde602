"""Sources and evaluators for tests of dispatching: no network, no data, every kind of trouble.

An evaluator does what its candidate's options say. Run as a script, this is a driver with a ledger that can be killed.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from search.candidate import Candidate, Outcome
from search.dispatch.contract import Resources
from search.dispatch.loop import dispatch
from search.ledger.ledger import Ledger

MIB = 2**20


def candidate(number: int = 0, **options: Any) -> Candidate:
    return Candidate(method="fake", options=options, allocation={"conv": {"ratio": 0.5}}, seed=number)


def expected_accuracy(number: int) -> float:
    return (number * 7 % 10) / 10


class ListSource:
    """Hands out a list, in order, and remembers everything that happened as (what, seed)."""

    def __init__(self, candidates: list[Candidate]) -> None:
        self.waiting = deque(candidates)
        self.outcomes: dict[int, Outcome] = {}
        self.events: list[tuple[str, int]] = []
        self.most_running = 0

    def ask(self) -> Candidate | None:
        if not self.waiting:
            return None
        chosen = self.waiting.popleft()
        self.events.append(("ask", chosen.seed))
        return chosen

    def started(self, chosen: Candidate) -> None:
        self.events.append(("start", chosen.seed))

    def tell(self, chosen: Candidate, outcome: Outcome) -> None:
        assert chosen.seed not in self.outcomes, "told twice"
        self.events.append(("tell", chosen.seed))
        self.outcomes[chosen.seed] = outcome
        asked = sum(what == "ask" for what, _ in self.events)
        self.most_running = max(self.most_running, asked - len(self.outcomes) + 1)

    @property
    def done(self) -> bool:
        return not self.waiting and sum(what == "ask" for what, _ in self.events) == len(self.outcomes)

    def seeds(self, what: str) -> list[int]:
        return [seed for event, seed in self.events if event == what]

    def notes(self, name: str) -> list[Any]:
        return [outcome.notes.get(name) for outcome in self.outcomes.values()]


class GenerationSource(ListSource):
    """Hands out `size` candidates, then nothing until all of them are told."""

    def __init__(self, candidates: list[Candidate], size: int) -> None:
        super().__init__(candidates)
        self.size = size

    def ask(self) -> Candidate | None:
        asked = len(self.seeds("ask"))
        if asked % self.size == 0 and asked > len(self.outcomes):
            return None
        return super().ask()


def rss() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def evaluate(chosen: Candidate) -> Outcome:
    """Do what the options say, then report an accuracy that follows from the seed."""
    start = time.monotonic()
    options = chosen.options
    if "log" in options:  # every attempt leaves a line
        with open(options["log"], "a") as file:
            file.write(f"{chosen.seed} {os.getpid()}\n")
    if "raises" in options:
        raise ERRORS[options["raises"]]()
    _misbehave(options)
    held = _hold(int(options.get("mib", 0)))
    if options.get("hungry") == chosen.seed:
        _devour()
    time.sleep(options.get("sleep", 0.0))
    spin_until = time.process_time() + options.get("work", 0.0)
    while time.process_time() < spin_until:
        pass
    notes = {"pid": os.getpid(), "rss": rss(), "held": held, "threads": torch.get_num_threads(),
             "cuda": os.environ.get("CUDA_VISIBLE_DEVICES")}  # fmt: skip
    return Outcome(status="ok", accuracy=float(options.get("accuracy", expected_accuracy(chosen.seed))),
                   loss=float(options.get("loss", 1.0)), flops=1000 + chosen.seed, seconds=time.monotonic() - start,
                   device="cpu", notes=notes)  # fmt: skip


def _misbehave(options: dict[str, Any]) -> None:
    if "die_once" in options and not Path(options["die_once"]).exists():
        Path(options["die_once"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if "crash" in options:
        os.kill(os.getpid(), getattr(signal, options["crash"]))
    if options.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if options.get("hang") == "sleep":
        time.sleep(1000)
    if options.get("hang") == "holding the interpreter":
        re.match(r"(a+)+$", "a" * 60 + "b")  # exponential, in C, and no other Python thread runs meanwhile


def _hold(mib: int) -> int:
    """Allocate a tensor inside a reference cycle, as hooks on a network make them."""
    cycle: list[Any] = [torch.ones(mib * MIB // 4)]
    cycle.append(cycle)
    return int(cycle[0].numel())


def _devour() -> None:
    """Take a GiB after the other, and touch every page of it, until somebody objects."""
    held = []
    while True:
        held.append(torch.ones(2**30 // 4))
        time.sleep(0.1)


ERRORS: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError("two\nlines"),
    "SystemExit": lambda: SystemExit(3),
    "MemoryError": lambda: MemoryError(),
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    "cpu": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
    "KeyboardInterrupt": lambda: KeyboardInterrupt(),
    "really": lambda: RuntimeError(torch.ones(10**15)),
}


def factory() -> Callable[[Candidate], Outcome]:
    return evaluate


def drive(ledger: str, count: int, workers: int, options: dict[str, Any]) -> None:
    """A driver: judge `count` candidates that the ledger does not know yet."""
    task = "fake-task"
    with Ledger(ledger, task, "fake") as memory:
        todo = [candidate(number, **options) for number in range(count)]
        source = ListSource([chosen for chosen in todo if memory.get(chosen.key(task)) is None])
        keep = source.tell

        def tell(chosen: Candidate, outcome: Outcome) -> None:
            memory.add(chosen, outcome, {"pid": os.getpid()})
            keep(chosen, outcome)

        source.tell = tell  # type: ignore[method-assign]
        stop = threading.Event()
        signal.signal(signal.SIGINT, lambda *_: stop.set())
        dispatch(source, factory, Resources(workers=workers), stop=stop)


if __name__ == "__main__":
    import json

    drive(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))

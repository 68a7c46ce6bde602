"""A search from its configuration to its files: set up, dispatch, write, say what is next."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from rich.console import Console

from methods.base import Compressor
from models.errors import UserError
from search.allocate import check_reachable
from search.candidate import Candidate, Outcome
from search.conductor import Conductor
from search.config import SearchConfig
from search.dispatch import Resources, dispatch
from search.evaluate import Evaluator, bind, worker
from search.files import atomic_write
from search.finalists import finalists
from search.finetune import judge, steps_of
from search.host import host_facts
from search.ledger import Ledger, LedgerError
from search.progress import Progress
from search.sensitivity import scan_points
from search.standings import keep_dense, keeper
from search.strategy import Problem, Proposal, Scan, Stage, strategy
from search.tables import Dense
from search.targets import Target, parse_target

MAX_WORKERS = 4  # by default; every worker holds the data and the dense network
SCHEMA = 1
PACE_SECONDS = 0.3  # how long the dense network's speed is measured at least


@dataclass
class Setup:
    """A search ready to run: everything was checked, nothing was dispatched."""

    config: SearchConfig
    evaluator: Evaluator
    compressor: Compressor
    problem: Problem
    targets: list[tuple[Target, int]]
    dense: Dense
    resources: Resources
    seconds_per_image: float
    """Of the dense network's forward pass in this process."""

    @property
    def fingerprint(self) -> str:
        return self.evaluator.task.fingerprint


@dataclass
class Result:
    """What a search came to."""

    setup: Setup
    seen: list[tuple[Proposal, Outcome]]
    complete: bool
    seconds: float
    facts: dict[str, str]


def prepare(config: SearchConfig) -> Setup:
    """Load the task, bind the method and check every input; UserError before any candidate is paid for."""
    if not config.strategies:
        raise UserError("no strategy was named; name at least one, e.g. acra-uniform")
    for name in config.strategies:
        strategy(name)
    wanted = [parse_target(text) for text in dict.fromkeys(config.targets)]
    resources = resources_of(config)
    evaluator = evaluator_of(config)
    compressor = bind_sites(evaluator, config)
    names = {"method": config.method, "network": config.task.network}
    targets = [(each, check_reachable(each, compressor.sites, compressor.cost, **names)) for each in wanted]
    dense, pace = measure_dense(evaluator, compressor, config)
    problem = problem_of(config, compressor, targets)
    return Setup(config, evaluator, compressor, problem, targets, dense, resources, pace)


def evaluator_of(config: SearchConfig) -> Evaluator:
    """The evaluator of this process; finalists' weights go to the run's folder."""
    return Evaluator(
        config.task, device=config.device, keep_weights=config.folder / "weights", time_limit=config.time_limit
    )


def bind_sites(evaluator: Evaluator, config: SearchConfig) -> Compressor:
    """The method bound to the dense network; UserError if it can compress nothing of it."""
    compressor = bind(evaluator.task, config.method, config.options)
    if not compressor.sites:
        reason = next(iter(compressor.skipped.values()), "it has no layer that the method compresses")
        raise UserError(f"{config.method} can compress nothing of {config.task.network}: {reason}")
    return compressor


def problem_of(config: SearchConfig, compressor: Compressor, targets: list[tuple[Target, int]]) -> Problem:
    """What the configuration's strategies are given to solve."""
    return Problem(
        method=config.method,
        options=config.options,
        sites=compressor.sites,
        cost=compressor.cost,
        targets=targets,
        recipe=config.recipe,
        seed=config.seed,
        scan=Scan(config.scan_levels, config.scan_images),
        trials=config.trials,
    )


def resources_of(config: SearchConfig) -> Resources:
    """Workers and their share of the machine; by default one per core or GPU."""
    gpus = torch.cuda.device_count() if config.device != "cpu" else 0
    cores = len(_cores())
    workers = config.workers if config.workers is not None else min(gpus or cores, MAX_WORKERS)
    share = config.gpus_per_worker
    if share is None:
        share = min(1.0, gpus / workers) if gpus and workers else 0.0
    return Resources(workers, share, config.ray_address, config.time_limit)


def _cores() -> list[int]:
    import os

    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def measure_dense(evaluator: Evaluator, compressor: Compressor, config: SearchConfig) -> tuple[Dense, float]:
    """The dense network's figures, and its seconds per image; the test set is met here only if finalists will be."""
    searched, _ = evaluator.dense("search")  # the first pass also warms the caches up
    start, passes = time.monotonic(), 0
    while time.monotonic() - start < PACE_SECONDS:
        evaluator.dense("search")
        passes += 1
    pace = (time.monotonic() - start) / (passes * len(evaluator.task.search))
    test = judge(evaluator.task.network, evaluator.task.test)[0] if config.finalists else None
    cost = compressor.cost.dense
    return Dense(cost.flops, cost.params, cost.bytes, searched, test), pace


def expected(setup: Setup) -> dict[Stage, int]:
    """Candidates per stage as far as they can be foreseen."""
    config = setup.config
    infos = [strategy(name)[0] for name in config.strategies]
    points = len(scan_points(setup.problem.sites, config.scan_levels)) + 1
    per_target = sum(config.trials if info.samples else 1 for info in infos)
    return {
        "scan": points if any(info.needs_data for info in infos) else 0,
        "search": per_target * len(setup.targets),
        "final": config.finalists * config.final_seeds * len(setup.targets),
    }


def work(setup: Setup) -> dict[Stage, float]:
    """Rough seconds per candidate and stage on the whole machine: a training step costs three forward passes."""
    config, task = setup.config, setup.evaluator.task
    recalibrate = min(config.recipe.recalibration_images, len(task.tune))

    def training(epochs: float, images: int, distill: float) -> float:
        return steps_of(config.recipe.model_copy(update={"epochs": epochs}), images) * config.recipe.batch_size * (
            4 if distill else 3
        )  # fmt: skip

    distill = config.recipe.distill_weight
    images: dict[Stage, float] = {
        "scan": recalibrate + min(config.scan_images or len(task.search), len(task.search)),
        "search": recalibrate + len(task.search) + training(config.recipe.epochs, len(task.tune), distill),
        "final": recalibrate + len(task.test) + training(config.final_recipe.epochs, len(task.train), distill),
    }
    return {stage: count * setup.seconds_per_image for stage, count in images.items()}


def run(setup: Setup, console: Console, *, retry_failed: bool = False) -> Result:
    """Dispatch until every strategy and the finalists are through, or Ctrl-C."""
    start, config = time.monotonic(), setup.config
    facts = host_facts(setup.evaluator.task.device)
    write_run(setup, facts, "running")
    stop = threading.Event()
    counts, costs = expected(setup), work(setup)
    with (
        open_ledger(setup, partial(warn, console)) as ledger,
        Progress(console, counts, costs, setup.resources.workers) as progress,
        stopping(stop),
    ):
        programs = [strategy(name)[1](setup.problem) for name in config.strategies]
        keep_dense(ledger, setup.dense)
        limits = {target.asked: limit for target, limit in setup.targets}
        note = keeper(ledger, limits, task=setup.fingerprint, run=config.name)
        final = finalists(config.finalists, config.final_seeds, config.final_recipe, note) if config.finalists else None
        source = Conductor(
            programs,
            ledger,
            setup.fingerprint,
            finalists=final,
            observe=progress.finished,
            retry_failed=retry_failed,
            warn=partial(warn, console),
        )
        factory = factory_of(setup)
        dispatch(source, factory, setup.resources, on_start=progress.started, stop=stop)
    complete = source.done
    write_run(setup, facts, "finished" if complete else "stopped")
    return Result(setup, source.seen, complete, time.monotonic() - start, facts)


def factory_of(setup: Setup) -> partial[Evaluator]:
    """In this process the evaluator is there already; elsewhere each worker builds its own."""
    if setup.resources.workers == 0:
        return partial(_same, setup.evaluator)
    config = setup.config
    return partial(
        worker,
        config.task.absolute(),
        device=config.device,
        keep_weights=(config.folder / "weights").absolute(),
        time_limit=config.time_limit,
    )


def _same(evaluator: Evaluator) -> Evaluator:
    return evaluator


@contextmanager
def stopping(stop: threading.Event) -> Iterator[None]:
    """The first Ctrl-C stops cleanly, the second at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(signum: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def open_ledger(setup: Setup, tell: Callable[[str], None]) -> Iterator[Ledger]:
    """The task's ledger; what it could not write in the end lies beside the run's files, and the user is told."""
    config = setup.config
    ledger = Ledger(config.ledger, setup.fingerprint, title(setup), rescue=config.folder / "unsaved.jsonl")
    try:
        yield ledger
    finally:
        try:
            ledger.close()
        except LedgerError as error:
            tell(str(error))


def warn(console: Console, text: str) -> None:
    """A warning on a line of its own, above the live table."""
    console.print(f"warning: {text}", style="yellow", highlight=False, markup=False, soft_wrap=True)


def title(setup: Setup) -> str:
    task = setup.config.task
    return f"{short(task.network)} on {short(task.data)}"


def short(spec: str) -> str:
    """A network or data spec without its folders."""
    return spec.rsplit("/", 1)[-1]


def write_run(setup: Setup, facts: dict[str, str], status: str) -> None:
    """`run.json`: every input, versions, host, and how far it came."""
    record = {
        "schema": SCHEMA,
        "status": status,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "config": setup.config.model_dump(mode="json"),
        "fingerprint": setup.fingerprint,
        "dense": vars(setup.dense) if hasattr(setup.dense, "__dict__") else {},
        "targets": [{"asked": target.asked, "flops": limit} for target, limit in setup.targets],
        "host": facts,
    }
    atomic_write(setup.config.folder / "run.json", json.dumps(record, indent=2) + "\n")


def candidates(result: Result) -> list[tuple[Proposal, Outcome]]:
    """Searched and final candidates, without the scan."""
    return [pair for pair in result.seen if pair[0].stage != "scan"]


def key_of(result: Result, candidate: Candidate) -> str:
    return candidate.key(result.setup.fingerprint)

"""A search made ready: everything is loaded and checked, nothing is paid for."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from methods.base import Compressor
from models.errors import UserError
from search.allocate import check_reachable
from search.choice import Choice, choose
from search.config import SearchConfig
from search.dispatch import Resources
from search.evaluate import Evaluator, bind
from search.finetune import judge
from search.host import cores
from search.rungs import check_samples
from search.storage import check_location
from search.strategy import Problem, Scan, strategy
from search.tables import Dense
from search.targets import Target, parse_target

MAX_WORKERS = 4  # by default; every worker holds the data and the dense network
PACE_SECONDS = 0.3  # how long the dense network's speed is measured at least


@dataclass
class Setup:
    """A search ready to run: everything was checked, nothing was dispatched."""

    config: SearchConfig
    evaluator: Evaluator
    compressor: Compressor
    choice: Choice
    problem: Problem
    targets: list[tuple[Target, int]]
    dense: Dense
    resources: Resources
    seconds_per_image: float
    """Of the dense network's forward pass in this process."""

    @property
    def fingerprint(self) -> str:
        return self.evaluator.task.fingerprint


def prepare(config: SearchConfig) -> Setup:
    """Load the task, bind the method and check every input; UserError before any candidate is paid for."""
    if not config.strategies:
        raise UserError("no strategy was named; name at least one, e.g. acra-uniform")
    for name in config.strategies:
        strategy(name)
    check_samples(config.strategies, config.ladder)
    wanted = [parse_target(text) for text in dict.fromkeys(config.targets)]
    resources = resources_of(config)
    check_location(config.ledger)
    evaluator = evaluator_of(config)
    compressor = bind_sites(evaluator, config)
    choice = choose(compressor, config.constraints)
    names = {"method": config.method, "network": config.task.network}
    sites, cost, skipped = choice.sites, choice.cost, choice.left_dense
    limits = {check_reachable(each, sites, cost, **names, skipped=skipped): each for each in reversed(wanted)}
    targets = [(each, limit) for limit, each in reversed(limits.items())]  # `0.5` and `50%` are one target
    dense, pace = measure_dense(evaluator, compressor, config)
    problem = problem_of(config, choice, targets)
    return Setup(config, evaluator, compressor, choice, problem, targets, dense, resources, pace)


def evaluator_of(config: SearchConfig) -> Evaluator:
    """The evaluator of this process; finalists' weights go to the run's folder."""
    return Evaluator(
        config.task,
        device=config.device,
        keep_weights=config.folder / "weights",
        keep_rungs=config.rungs_folder if config.rungs else None,
        time_limit=config.time_limit,
    )


def bind_sites(evaluator: Evaluator, config: SearchConfig) -> Compressor:
    """The method bound to the dense network; UserError if it can compress nothing of it."""
    compressor = bind(evaluator.task, config.method, config.options)
    if not compressor.sites:
        reason = next(iter(compressor.skipped.values()), "it has no layer that the method compresses")
        raise UserError(f"{config.method} can compress nothing of {config.task.network}: {reason}")
    return compressor


def problem_of(config: SearchConfig, choice: Choice, targets: list[tuple[Target, int]]) -> Problem:
    """What the configuration's strategies are given to solve."""
    return Problem(
        method=config.method,
        options=config.options,
        sites=choice.sites,
        cost=choice.cost,
        targets=targets,
        recipe=config.recipe,
        seed=config.seed,
        scan=Scan(config.scan_levels, config.scan_images),
        trials=config.trials,
        whole=choice.whole,
        fixed=choice.fixed,
        constrained=choice.constrained,
    )


def resources_of(config: SearchConfig) -> Resources:
    """Workers and their share of the machine; by default one per core or GPU."""
    gpus = torch.cuda.device_count() if config.device != "cpu" else 0
    workers = config.workers if config.workers is not None else min(gpus or cores(), MAX_WORKERS)
    share = config.gpus_per_worker
    if share is None:
        share = min(1.0, gpus / workers) if gpus and workers else 0.0
    return Resources(workers, share, config.ray_address, config.time_limit)


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

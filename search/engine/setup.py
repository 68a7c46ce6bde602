"""A search made ready: everything is loaded and checked, nothing is paid for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from methods.base import Allocation, Compressor, Levels
from models.errors import UserError
from models.task import check_trainable, pick_device
from models.user.spec_names import network_name
from search.allocation.allocate import check_reachable
from search.allocation.budget import LATENCY, Budget
from search.allocation.choice import Choice, blamed, choose
from search.allocation.targets import Target
from search.dispatch.contract import Resources
from search.engine.run_folder import check_run_folder, refuse_other
from search.engine.rungs import check_samples
from search.engine.unchanged import refuse_changed
from search.judge.baseline import train_missing_baseline
from search.judge.evaluate import Evaluator, bind_method
from search.judge.finetune import measure_accuracy
from search.latency.table import ChosenLatency, LatencyTable, Say, latency_table, tell
from search.ledger.storage import check_location
from search.machine.host import count_cores
from search.results.tables import Dense
from search.settings.config import RunConfig
from search.strategies.contract import Problem, Scan, strategy

MAX_WORKERS = 4  # by default; every worker holds the data and the dense network


@dataclass
class Setup:
    """A search ready to run: everything was checked, nothing was dispatched."""

    config: RunConfig
    evaluator: Evaluator
    compressor: Compressor
    choice: Choice
    problem: Problem
    targets: list[tuple[Target, Budget]]
    dense: Dense
    resources: Resources
    table: LatencyTable | None = None
    """Where a target asks for latency."""

    def levels(self, allocation: Allocation) -> Levels:
        """The levels that strategies and budgets know an allocation by."""
        return self.choice.shortened(self.compressor.levels(allocation))

    @property
    def fingerprint(self) -> str:
        return self.evaluator.task.fingerprint


def prepare(config: RunConfig, say: Say = tell) -> Setup:
    """Load the task, bind the method and check every input; UserError before any candidate is paid for."""
    if not config.strategies:
        raise UserError("no strategy was named; name at least one, e.g. acra-uniform")
    for name in config.strategies:
        strategy(name)
    check_samples(config.strategies, config.ladder)
    wanted = config.targets
    resources = resources_of(config)
    check_run_folder(config)
    check_location(config.ledger)
    refuse_other(config.folder, config)
    evaluator = evaluator_of(config)
    refuse_changed(config.folder, evaluator.task)
    compressor = bind_sites(evaluator, config)
    choice = choose(compressor, config.constraints)
    table = table_of(config, compressor, wanted, say)
    targets = distinct([(each, budget_of(config, choice, each, table)) for each in wanted])
    dense = measure_dense(evaluator, compressor, config)
    problem = problem_of(config, choice, targets)
    return Setup(config, evaluator, compressor, choice, problem, targets, dense, resources, table)


def table_of(
    config: RunConfig, compressor: Compressor, wanted: Sequence[Target], say: Say = tell
) -> LatencyTable | None:
    """The measured layer times, if a target asks for latency; UserError if the method gains none."""
    if not any(LATENCY in target.measures for target in wanted):
        return None
    return latency_table(compressor, batch=config.latency_batch, results=Path(config.results), say=say)


def budget_of(config: RunConfig, choice: Choice, target: Target, table: LatencyTable | None = None) -> Budget:
    """What a target comes to; UserError, naming the constraints that are to blame, if it is out of reach."""
    try:
        return _reached(config, choice, target, table)
    except UserError as error:
        found = blamed(choice, lambda other: _reaches(config, other, target, table))
        if not found:
            raise
        raise UserError(f"{error}; without {' or without '.join(found)} it would be within reach") from None


def _reached(config: RunConfig, choice: Choice, target: Target, table: LatencyTable | None) -> Budget:
    return check_reachable(
        target,
        choice.sites,
        choice.cost,
        None if table is None else ChosenLatency(table, choice.full),
        method=config.method,
        network=network_name(config.task.network),
        skipped=choice.left_dense,
    )


def _reaches(config: RunConfig, choice: Choice, target: Target, table: LatencyTable | None) -> bool:
    try:
        _reached(config, choice, target, table)
    except UserError:
        return False
    return True


def distinct(targets: list[tuple[Target, Budget]]) -> list[tuple[Target, Budget]]:
    """Without those that come to the same as an earlier one: `0.5` and `50%` are one target."""
    first = {tuple(budget.limits.items()): (target, budget) for target, budget in reversed(targets)}
    return [*reversed(first.values())]


def evaluator_of(config: RunConfig) -> Evaluator:
    """The evaluator of this process; finalists' weights go to the run's folder. UserError if it cannot fine-tune."""
    pick_device(config.device)  # refused before a baseline is trained for it
    train_missing_baseline(config.task)
    evaluator = Evaluator(
        config.task,
        device=config.device,
        keep_weights=config.folder / "weights",
        keep_rungs=config.rungs_folder if config.rungs else None,
        time_limit=config.time_limit,
    )
    if config.recipe.epochs or (config.finalists and config.final_recipe.epochs):
        check_trainable(evaluator.task)
    return evaluator


def bind_sites(evaluator: Evaluator, config: RunConfig) -> Compressor:
    """The method bound to the dense network; UserError if it can compress nothing of it."""
    compressor = bind_method(evaluator.task, config.method, config.method_options)
    if not compressor.sites:
        reason = weightiest_reason(compressor) or "it has no layer that the method compresses"
        raise UserError(f"{config.method} can compress nothing of {network_name(config.task.network)}: {reason}")
    return compressor


def weightiest_reason(compressor: Compressor) -> str | None:
    """Of the reasons why layers stay dense, the one that holds most of their weights; None if there is no reason.

    The first in the network's order is often that of its smallest layer.
    """
    sizes = {name: sum(p.numel() for p in module.parameters()) for name, module in compressor.network.named_modules()}
    weights = Counter[str]()
    for layer, reason in compressor.skipped.items():
        weights[reason] += 1 + sizes.get(layer, sizes.get(layer.partition(":")[2], 0))  # `l1:layer` in a composition
    return weights.most_common(1)[0][0] if weights else None


def problem_of(config: RunConfig, choice: Choice, targets: list[tuple[Target, Budget]]) -> Problem:
    """What the configuration's strategies are given to solve."""
    return Problem(
        method=config.method,
        options=config.method_options,
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


def resources_of(config: RunConfig) -> Resources:
    """Workers and their share of the machine; by default one per core or GPU."""
    gpus = torch.cuda.device_count() if config.device != "cpu" else 0
    workers = config.workers if config.workers is not None else min(gpus or count_cores(), MAX_WORKERS)
    share = config.gpus_per_worker
    if share is None:
        share = min(1.0, gpus / workers) if gpus and workers else 0.0
    return Resources(workers, share, config.ray_address, config.time_limit)


def measure_dense(evaluator: Evaluator, compressor: Compressor, config: RunConfig) -> Dense:
    """The dense network's figures; the test set is met here only if finalists will be."""
    searched, _ = evaluator.dense("search")
    test = measure_accuracy(evaluator.task.network, evaluator.task.test)[0] if config.finalists else None
    cost = compressor.cost.dense
    return Dense(cost.flops, cost.params, cost.bytes, searched, test)

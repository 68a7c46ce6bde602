"""A run made ready: every method is bound to the network and every target checked; nothing is paid for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from methods.base import Allocation, Compressor, Levels
from models.errors import UserError, commonest_reason
from models.task import Task, check_trainable, pick_device
from models.user.given_networks import is_given_network
from models.user.spec_names import class_of, network_name
from search.allocation.allocate import check_reachable
from search.allocation.budget import LATENCY, Budget
from search.allocation.choice import Choice, blamed, choose
from search.allocation.targets import Target
from search.dispatch.contract import Resources
from search.engine.run_folder import check_run_folder, refuse_other
from search.engine.rungs import check_samples
from search.engine.standings import Standing, without_finalist
from search.engine.unchanged import refuse_changed
from search.judge.baseline import train_missing_baseline
from search.judge.evaluate import Evaluator, bind_method
from search.judge.finetune import measure_accuracy
from search.latency.table import ChosenLatency, LatencyTable, Say, latency_table, tell
from search.ledger.storage import check_location
from search.machine.host import count_cores
from search.results.tables import Dense
from search.settings.config import LEARNED, RunConfig
from search.strategies.contract import Problem, Scan, strategy

MAX_WORKERS = 4  # by default; every worker holds the data and the dense network


@dataclass
class PreparedMethod:
    """One method of a run, bound to the dense network, with the targets that it can reach."""

    config: RunConfig
    """The method's part of the run."""
    evaluator: Evaluator
    compressor: Compressor
    choice: Choice
    problem: Problem
    targets: list[tuple[Target, Budget]]
    dense: Dense
    table: LatencyTable | None = None
    """Where a target asks for latency."""

    def levels(self, allocation: Allocation) -> Levels:
        """The levels that strategies and budgets know an allocation by."""
        return self.choice.shortened(self.compressor.levels(allocation))

    @property
    def limits(self) -> dict[str, Mapping[str, int]]:
        """Target as asked -> measure -> what it may be at most."""
        return {target.asked: budget.limits for target, budget in self.targets}

    @property
    def fingerprint(self) -> str:
        return self.evaluator.task.fingerprint


@dataclass
class PreparedRun:
    """A run ready to begin: everything was checked, nothing was dispatched."""

    config: RunConfig
    methods: list[PreparedMethod]
    """Those that can reach a target; they share evaluator and dense figures."""
    evaluator: Evaluator
    dense: Dense
    resources: Resources
    refused: list[Standing]
    """What a comparison cannot answer, and why."""

    @property
    def task(self) -> Task:
        return self.evaluator.task

    @property
    def fingerprint(self) -> str:
        return self.task.fingerprint

    @property
    def title(self) -> str:
        """Network and data without their folders; an object by its class."""
        names = (self.config.task.network, self.config.task.data)
        return " on ".join(class_of(name) if is_given_network(name) else name.rsplit("/", 1)[-1] for name in names)


def prepare_run(config: RunConfig, say: Say = tell) -> PreparedRun:
    """Load the task, bind the methods and check every target, before any candidate is paid for.

    Args:
        say: told before layer times are measured, which takes a while.

    Raises:
        UserError: an input that cannot be worked with. A comparison leaves out what cannot be answered, unless that is
            everything.
    """
    if not config.strategies:
        raise UserError("no strategy was named; name at least one, e.g. acra-uniform")
    for name in config.strategies:
        strategy(name)
    check_samples([name for part in config.parts for name in part.strategies], config.ladder)
    resources = resources_of(config)
    check_run_folder(config)
    check_location(config.ledger)
    refuse_other(config.folder, config)
    evaluator = evaluator_of(config)
    refuse_changed(config.folder, evaluator.task)
    bound: list[_BoundMethod] = []
    refusals: list[tuple[RunConfig, Target, str]] = []
    for part in config.parts:
        method, refused = _bind_method(evaluator, part, say)
        if refused and not config.comparison:
            raise UserError(refused[0][1])
        refusals += [(part, target, reason) for target, reason in refused]
        bound += [method] if method is not None and method.targets else []
    if not bound:
        raise UserError(commonest_reason(reason for _, _, reason in refusals))
    dense = measure_dense(evaluator, bound[0].compressor, config)
    methods = [
        PreparedMethod(
            method.config,
            evaluator,
            method.compressor,
            method.choice,
            problem_of(method.config, method.choice, method.targets),
            method.targets,
            dense,
            method.table,
        )
        for method in bound
    ]
    if not any(method.config.strategies for method in methods):
        names = ", ".join(method.config.method for method in methods)
        raise UserError(f"nothing to compare: {names} cannot learn an allocation; name a strategy, e.g. acra-uniform")
    standings = [standing for refusal in refusals for standing in _refused_standings(*refusal, dense)]
    return PreparedRun(config, methods, evaluator, dense, resources, standings + _without_learning(methods))


@dataclass
class _BoundMethod:
    config: RunConfig
    compressor: Compressor
    choice: Choice
    table: LatencyTable | None
    targets: list[tuple[Target, Budget]]


def _bind_method(
    evaluator: Evaluator, config: RunConfig, say: Say
) -> tuple[_BoundMethod | None, list[tuple[Target, str]]]:
    """A method bound to the network with the targets it can reach, and the others with the reason why not."""
    try:
        compressor = bind_sites(evaluator, config)
        choice = choose(compressor, config.constraints)
        table = table_of(config, compressor, config.targets, say)
    except UserError as error:
        return None, [(target, str(error)) for target in config.targets]
    reached, refused = [], []
    for target in config.targets:
        try:
            reached.append((target, budget_of(config, choice, target, table)))
        except UserError as error:
            refused.append((target, str(error)))
    return _BoundMethod(config, compressor, choice, table, distinct(reached)), refused


def _refused_standings(config: RunConfig, target: Target, reason: str, dense: Dense) -> list[Standing]:
    """Limits that take a measurement of the dense network are not known for what was refused."""
    measured = {"flops": dense.flops, "params": dense.params, "bytes": dense.bytes}
    limits = {part.measure: part.limit(measured.get(part.measure, 0)) for part in target.parts}
    names = config.strategies or (LEARNED,)
    return [without_finalist(config, name, target.asked, limits, reason) for name in names]


def _without_learning(methods: list[PreparedMethod]) -> list[Standing]:
    """Rows of the methods that were asked for nothing but to learn their allocation, and cannot."""
    return [
        without_finalist(
            method.config, LEARNED, target, limits, f"{method.config.method} does not learn its allocation"
        )
        for method in methods
        if not method.config.strategies
        for target, limits in method.limits.items()
    ]


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

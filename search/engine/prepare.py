"""A run made ready: task loaded, methods bound, targets checked, dense network measured; no candidate is judged."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from methods.base import Compressor
from models.devices import pick_device
from models.errors import UserError, commonest_reason
from models.tasks.load import check_trainable
from models.tasks.loaded import LoadedTask, Split
from models.user.spec_names import class_of, is_given_network
from search.allocation.budget import Budget
from search.dispatch.availability import check_resources
from search.dispatch.contract import Resources
from search.engine.method_configs import method_configs
from search.engine.prepare_method import PreparedMethod, Refusal, prepare_method
from search.engine.run_folder import check_run_folder, refuse_other_run
from search.engine.rungs import check_samples
from search.engine.standings import Standing, without_finalist
from search.engine.unchanged import refuse_changed
from search.judge.baseline import train_missing_baseline
from search.judge.evaluate import Evaluator
from search.latency.progress import Say, tell_user
from search.ledger.storage import check_location
from search.machine.host import count_cores
from search.results.dense import Dense
from search.settings.config import LEARNED, RunConfig
from search.strategies.registry import find_strategy

MAX_WORKERS = 4  # by default; every worker holds the data and the dense network


@dataclass
class PreparedRun:
    """A run ready to begin: everything was checked, nothing was dispatched."""

    config: RunConfig
    methods: list[PreparedMethod]
    """Those that can reach a target; in the order they were named."""
    evaluator: Evaluator
    dense: Dense
    resources: Resources
    refused: list[Standing]
    """What a comparison cannot answer, and why."""

    @property
    def task(self) -> LoadedTask:
        return self.evaluator.task

    @property
    def fingerprint(self) -> str:
        return self.task.fingerprint

    @property
    def budgets(self) -> dict[str, Budget]:
        """Target as asked -> what it comes to, in the order they were named; a target out of reach has none."""
        budgets = {target.asked: budget for method in self.methods for target, budget in method.targets}
        return {target.asked: budgets[target.asked] for target in self.config.targets if target.asked in budgets}

    @property
    def title(self) -> str:
        """Network and data, or the task, without their folders; an object by its class."""
        task = self.config.task
        names = [task.network, task.data] if task.task is None else [task.task]
        return " on ".join(class_of(name) if is_given_network(name) else name.rsplit("/", 1)[-1] for name in names)


def prepare_run(config: RunConfig, say: Say = tell_user) -> PreparedRun:
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
        find_strategy(name)
    of_methods = method_configs(config)
    check_samples([name for of_method in of_methods for name in of_method.strategies], config.ladder)
    resources = resources_of(config)
    check_resources(resources)
    check_run_folder(config)
    check_location(config.ledger)
    refuse_other_run(config.folder, config)
    # What can be refused without the network and the data was refused above: loading them may take minutes.
    evaluator = evaluator_of(config)
    refuse_changed(config.folder, evaluator.task)
    methods: list[PreparedMethod] = []
    refusals: list[tuple[RunConfig, Refusal]] = []
    for of_method in of_methods:
        method, refused = prepare_method(evaluator.task, of_method, say)
        if refused and not config.comparison:
            raise UserError(refused[0][1])
        refusals += [(of_method, refusal) for refusal in refused]
        methods += [] if method is None else [method]
    if not methods:
        raise UserError(commonest_reason(reason for _, (_, reason) in refusals))
    if not any(method.config.strategies for method in methods):
        names = ", ".join(method.config.method for method in methods)
        raise UserError(f"nothing to compare: {names} cannot learn an allocation; name a strategy, e.g. acra-uniform")
    # After every check, because it takes a pass over the images. All methods were bound to this network: any of them
    # tells its cost.
    dense = measure_dense(evaluator, methods[0].compressor, config)
    standings = [standing for refusal in refusals for standing in _refused_standings(*refusal, dense)]
    return PreparedRun(config, methods, evaluator, dense, resources, standings + _without_learning(methods))


def _refused_standings(config: RunConfig, refusal: Refusal, dense: Dense) -> list[Standing]:
    """Rows without an answer; limits of latency, which were not measured for a refused target, are 0 there."""
    target, reason = refusal
    measured = {"flops": dense.flops, "params": dense.params, "bytes": dense.bytes}
    limits = {term.measure: term.limit_for(measured.get(term.measure, 0)) for term in target.terms}
    names = config.strategies or (LEARNED,)
    return [without_finalist(config, name, target, limits, reason) for name in names]


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
    evaluator.task.check(test=bool(config.finalists))
    return evaluator


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
    metric, *others = evaluator.task.metrics
    splits: list[Split] = ["search", "test"] if config.finalists else ["search"]
    scores = {split: evaluator.dense(split).metrics for split in splits}
    test = scores["test"][metric.name] if config.finalists else None
    other_scores = {f"{split}_{other.name}": scores[split][other.name] for split in splits for other in others}
    cost = compressor.cost.dense
    ranking = scores["search"][metric.name], test, metric
    return Dense(cost.flops, cost.params, cost.bytes, *ranking, tuple(others), other_scores)

"""One method of a run made ready: bound to the dense network, with the targets that it can reach and their problem."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from methods.base import Allocation, Compressor, Levels
from models.errors import UserError
from models.tasks.loaded import LoadedTask
from models.user.spec_names import network_name
from search.allocation.allocate import check_reachable
from search.allocation.budget import Budget
from search.allocation.choice import Choice, blamed_constraints, constrain_choice
from search.allocation.constraints import step_rule
from search.allocation.targets import Target, device_of, is_latency, latency_measure
from search.judge.bind import bind_method
from search.latency.device_file import DeviceFile, device_files, unknown_device
from search.latency.device_table import DeviceTable
from search.latency.progress import Say, tell_user
from search.latency.table import ChosenLatency, LatencyTable, latency_table
from search.settings.config import RunConfig
from search.strategies.problem import Problem, Scan

Tables = Mapping[str, LatencyTable | DeviceTable]
"""Measure, a latency -> what predicts it."""


@dataclass
class PreparedMethod:
    """One method of a run, bound to the dense network, with the targets that it can reach."""

    config: RunConfig
    """The method's part of the run."""
    fingerprint: str
    """Of the task."""
    compressor: Compressor
    choice: Choice
    problem: Problem
    targets: list[tuple[Target, Budget]]
    tables: Tables = field(default_factory=dict)
    """Measure -> predictions, for every latency that a target asks for."""

    def levels(self, allocation: Allocation) -> Levels:
        """The levels that strategies and budgets know an allocation by."""
        return self.choice.shortened_levels(self.compressor.levels(allocation))

    @property
    def limits(self) -> dict[Target, Mapping[str, int]]:
        """Target -> measure -> what it may be at most."""
        return {target: budget.limits for target, budget in self.targets}


Refusal = tuple[Target, str]
"""A target that a method cannot reach, and why."""


def prepare_method(task: LoadedTask, config: RunConfig, say: Say) -> tuple[PreparedMethod | None, list[Refusal]]:
    """A method with the targets it can reach, None if there are none; and the targets it cannot reach.

    Args:
        config: the method's part of the run.
    """
    try:
        compressor = bind_sites(task, config)
        tables = tables_of(config, compressor, config.targets, say)
        choice = choice_of(config, compressor, tables)
    except UserError as error:
        return None, [(target, str(error)) for target in config.targets]
    reached: list[tuple[Target, Budget]] = []
    refused: list[Refusal] = []
    for target in config.targets:
        try:
            reached.append((target, budget_of(config, choice, target, tables)))
        except UserError as error:
            refused.append((target, str(error)))
    if not reached:
        return None, refused
    targets = distinct_targets(reached)
    problem = problem_of(config, choice, targets)
    return PreparedMethod(config, task.fingerprint, compressor, choice, problem, targets, tables), refused


def bind_sites(task: LoadedTask, config: RunConfig) -> Compressor:
    """The method bound to the dense network; UserError if it can compress nothing of it."""
    compressor = bind_method(task, config.method, config.method_options)
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
        # One for layers without weights of their own, which then count by their number.
        weights[reason] += 1 + sizes.get(layer, sizes.get(layer.partition(":")[2], 0))  # `l1:layer` in a composition
    return weights.most_common(1)[0][0] if weights else None


def tables_of(config: RunConfig, compressor: Compressor, wanted: Sequence[Target], say: Say = tell_user) -> Tables:
    """Predictions for every latency that a target asks for: from a device's table, or from layers measured here.

    Raises:
        UserError: the method gains no latency, or a device's table does not fit the method and network.
    """
    asked = dict.fromkeys(measure for target in wanted for measure in target.measures if is_latency(measure))
    files = device_files(config.latency_tables)
    tables: dict[str, LatencyTable | DeviceTable] = {}
    for name, file in files.items():  # shown, even where no target asks for them
        if latency_measure(name) not in asked:
            try:
                tables[latency_measure(name)] = DeviceTable(file, compressor)
            except UserError as error:
                say(f"no latency on {name}: {error}")
    for measure in asked:
        device = device_of(measure)
        if device is None:
            tables[measure] = latency_table(
                compressor, batch=config.latency_batch, results=Path(config.results), say=say
            )
        elif device in files:
            tables[measure] = DeviceTable(files[device], compressor)
        else:
            raise unknown_device(device, files)
    return tables


def choice_of(config: RunConfig, compressor: Compressor, tables: Tables) -> Choice:
    """What the constraints leave; with tables of devices and no rounding of the user's, multiples of their steps."""
    step, names = step_of(config, compressor, tables), [file.name for file in _files_of(tables)]
    return constrain_choice(compressor, config.constraints, [step_rule(step, names)] if step > 1 else [])


def step_of(config: RunConfig, compressor: Compressor, tables: Tables) -> int:
    """The number of channels whose multiples fill the kernels of all devices with tables.

    It is 1 if the user rounds channels, or the method's settings are no widths.
    """
    if config.constraints.round_channels or not any(site.widths for site in compressor.sites):
        return 1
    return max((file.steps.channels for file in _files_of(tables)), default=1)


def _files_of(tables: Tables) -> list[DeviceFile]:
    return [table.file for table in tables.values() if isinstance(table, DeviceTable)]


def budget_of(config: RunConfig, choice: Choice, target: Target, tables: Tables | None = None) -> Budget:
    """What a target comes to; UserError, naming the constraints that are to blame, if it is out of reach."""

    def check_target(choice: Choice) -> Budget:
        return check_reachable(
            target,
            choice.sites,
            choice.cost,
            {measure: ChosenLatency(table, choice.full_levels) for measure, table in (tables or {}).items()},
            method=config.method,
            network=network_name(config.task.network),
            skipped=choice.left_dense,
        )

    def can_reach(choice: Choice) -> bool:
        try:
            check_target(choice)
        except UserError:
            return False
        return True

    try:
        return check_target(choice)
    except UserError as error:
        constraints = blamed_constraints(choice, can_reach)
        if not constraints:
            raise
        raise UserError(f"{error}; without {' or without '.join(constraints)} it would be within reach") from None


def distinct_targets(targets: Sequence[tuple[Target, Budget]]) -> list[tuple[Target, Budget]]:
    """Targets without those that come to the same limits as an earlier one: `0.5` and `50%` are one target."""
    # Built from the last to the first, so that of two alike the earlier one is kept.
    first = {tuple(budget.limits.items()): (target, budget) for target, budget in reversed(targets)}
    return [*reversed(first.values())]


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
        full_sites=choice.full_sites,
        fixed=choice.fixed,
        constrained=choice.is_constrained,
    )

"""A plan: the allocation a strategy comes to, and its predicted cost, without training anything."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from methods.base import Allocation, Compressor, Levels
from methods.dense_shares import dense_shares
from methods.graph.trace import uncounted_flops
from methods.registry import create, method_info
from models.devices import pick_device
from models.errors import UserError
from models.notices import collect_notices
from models.tasks.load import load_subject
from search.allocation.allocate import reachable_ranges, too_coarse
from search.allocation.budget import Budget
from search.allocation.choice import Choice
from search.allocation.targets import LATENCY
from search.engine.prepare_method import budget_of, choice_of, problem_of, step_of, tables_of
from search.judge.baseline import train_missing_baseline
from search.judge.bind import bind_method
from search.latency.check import check_prediction
from search.latency.device_table import DeviceTable
from search.latency.predicted import predict_latency
from search.latency.progress import Say, tell_user
from search.settings.config import RunConfig
from search.strategies.contract import Propose
from search.strategies.problem import Problem
from search.strategies.registry import find_strategy

if TYPE_CHECKING:  # a plan on the command line needs neither tables nor, for most strategies, images
    import pandas as pd

    from search.judge.evaluate import Evaluator


@dataclass(frozen=True, eq=False)
class Plan:
    """An allocation and its predicted cost."""

    record: Mapping[str, Any]
    """Sites, settings, costs, reachable range, layers left dense with the reason; what `--json` prints."""
    compressor: Compressor
    allocation: Allocation

    @property
    def table(self) -> pd.DataFrame:
        """One line per site: its channels (or kernels), setting, and strength from 0 (dense) to 1."""
        import pandas as pd

        levels = self.compressor.levels(self.allocation)
        settings = [
            {"site": site.name, "channels": site.channels, **site.settings[level], "strength": site.strengths[level]}
            for site, level in zip(self.compressor.sites, levels, strict=True)
        ]
        return pd.DataFrame(settings)

    @property
    def kept_flops(self) -> float:
        """Compressed over dense multiply-accumulates."""
        return float(self.record["achieved"]["kept_flops"])

    def network(self) -> nn.Module:
        """The compressed network, not fine-tuned: a new `nn.Module` in evaluation mode."""
        return self.compressor.compress(self.allocation)


def solve_plan(config: RunConfig, say: Say = tell_user) -> Plan:
    """Sites, allocation, predicted cost and reachable range for one target.

    Data is loaded only for a strategy that scans or a method that calibrates. A target of latency is checked on the
    whole compressed network; `say` is told before anything is measured.
    """
    if len(config.targets) != 1 or len(config.strategies) != 1:
        raise UserError("plan takes one target and one strategy; run it once for each")
    info, propose = find_strategy(config.strategies[0])
    (target,) = config.targets
    device = pick_device(config.device)  # refused here even where no device is needed
    train_missing_baseline(config.task)
    evaluator = None
    with collect_notices() as notices:
        if info.needs_data is not False or method_info(config.method).needs_calibration:
            from search.judge.evaluate import Evaluator

            evaluator = Evaluator(config.task, device=config.device)
            compressor = bind_method(evaluator.task, config.method, config.method_options)
        else:
            compressor = _bound_without_data(config, device if LATENCY in target.measures else None)
    tables = tables_of(config, compressor, [target], say)
    choice = choice_of(config, compressor, tables)
    budget = budget_of(config, choice, target, tables)
    problem = problem_of(config, choice, [(target, budget)])
    levels, seconds = _propose_levels(problem, propose, compressor, evaluator)
    record = {**_plan_record(config, compressor, choice, levels, budget, seconds), "notices": notices}
    devices = []
    for table in tables.values():
        if isinstance(table, DeviceTable):
            prediction = predict_latency(table, levels)
            devices.append({**prediction.model_dump(), "words": prediction.figures_text})
        else:
            checked = check_prediction(compressor, levels, table)
            record["latency"] = {**checked.model_dump(), "off": checked.relative_error, "words": checked.figures_text()}
    if devices:
        record |= {"devices": devices, "device_step": step_of(config, compressor, tables)}
    return Plan(record, compressor, compressor.allocation(levels))


def _bound_without_data(config: RunConfig, device: torch.device | None) -> Compressor:
    """The method bound to the dense network on a device, if it is timed there."""
    network, example = load_subject(config.task, device or "cpu", runs=device is not None)
    return create(config.method, network, example, config.method_options)


def _propose_levels(
    problem: Problem, propose: Propose, compressor: Compressor, evaluator: Evaluator | None
) -> tuple[Levels, float]:
    """The levels of the first candidate that the strategy would search, and the seconds it took to choose them.

    Scans on the way are judged here; their time does not count.
    """
    # The clock stops while the scan is measured: `solve_seconds` is the arithmetic alone.
    program, start = propose(problem), time.perf_counter()
    proposals, seconds = next(program), time.perf_counter() - start
    while proposals and proposals[0].stage == "scan":
        assert evaluator is not None
        outcomes = [evaluator(proposal.candidate) for proposal in proposals]
        start = time.perf_counter()
        proposals = program.send(outcomes)
        seconds += time.perf_counter() - start
    return compressor.levels(proposals[0].candidate.allocation), seconds


def _plan_record(
    config: RunConfig, compressor: Compressor, choice: Choice, levels: Levels, budget: Budget, seconds: float
) -> dict[str, Any]:
    dense, achieved = compressor.cost.dense, compressor.cost_of(compressor.allocation(levels))
    chosen_levels = choice.shortened_levels(levels)
    figures = dict(zip(budget.limits, budget.figures_of(chosen_levels[None])[:, 0].tolist(), strict=True))
    kept_shares = {f"kept_{name}": figure / budget.dense_figure(name) for name, figure in figures.items()}
    spans = {
        name: {"min_kept": least / budget.dense_figure(name), "max_kept": greatest / budget.dense_figure(name)}
        for name, (least, greatest) in zip(budget.limits, reachable_ranges(budget, choice.sites), strict=True)
    }
    return {
        "network": config.task.network,
        "method": config.method,
        "strategy": config.strategies[0],
        "target": {
            "asked": config.targets[0].asked,
            **budget.limits,
            "met": budget.is_met(chosen_levels),
            "too_coarse": too_coarse(choice.sites, budget),
            "binding": budget.binding_measures(chosen_levels),
        },
        "dense": {**{name: budget.dense_figure(name) for name in budget.limits}, **dense._asdict()},
        "achieved": {**figures, **achieved._asdict(), **kept_shares},
        "reachable": spans["flops"] if len(spans) == 1 and "flops" in spans else spans,
        "allocation": {
            site.name: dict(site.settings[level]) for site, level in zip(compressor.sites, levels, strict=True)
        },
        "kept_channels": {
            site.name: {"kept": site.widths[level], "of": site.channels}
            for site, level in zip(compressor.sites, levels, strict=True)
            if site.widths
        },
        "left_dense": dict(choice.left_dense),
        "dense_shares": [
            {**asdict(share), "layers": list(share.layers)} for share in dense_shares(compressor, choice.left_dense)
        ],
        "uncounted_flops": uncounted_flops(compressor.network, compressor.example),
        "solve_seconds": seconds,
    }

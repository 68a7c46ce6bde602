"""A plan: the allocation a strategy comes to, and its predicted cost, without training anything."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import nn

from methods.base import Allocation, Compressor, Levels, example_input
from methods.registry import create, method_info
from methods.trace import uncounted_flops
from models.data import data_info
from models.errors import UserError
from models.task import load_network, pick_device
from search.allocate import check_reachable, reach
from search.choice import Choice, choose
from search.config import SearchConfig
from search.evaluate import Evaluator, bind
from search.setup import problem_of
from search.strategy import Problem, Propose, strategy
from search.targets import TOLERANCE, parse_target


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
        levels = self.compressor.levels(self.allocation)
        lines = [
            {"site": site.name, "channels": site.channels, **site.settings[level], "strength": site.strengths[level]}
            for site, level in zip(self.compressor.sites, levels, strict=True)
        ]
        return pd.DataFrame(lines)

    @property
    def kept_flops(self) -> float:
        """Compressed over dense multiply-accumulates."""
        return float(self.record["achieved"]["kept_flops"])

    def network(self) -> nn.Module:
        """The compressed network, not fine-tuned: a new `nn.Module` in evaluation mode."""
        return self.compressor.compress(self.allocation)


def plan(config: SearchConfig) -> dict[str, Any]:
    """The record of `solve`; JSON."""
    return dict(solve(config).record)


def solve(config: SearchConfig) -> Plan:
    """Sites, allocation, predicted cost and reachable range for one target.

    Data is loaded only for a strategy that scans or a method that calibrates.
    """
    if len(config.targets) != 1 or len(config.strategies) != 1:
        raise UserError("plan takes one target and one strategy; run it once for each")
    info, propose = strategy(config.strategies[0])
    target = parse_target(config.targets[0])
    pick_device(config.device)  # refused here even where no device is needed
    evaluator = None
    if info.needs_data or method_info(config.method).needs_calibration:
        evaluator = Evaluator(config.task, device=config.device)
        compressor = bind(evaluator.task, config.method, config.options)
    else:
        compressor = _bound_without_data(config)
    names = {"method": config.method, "network": config.task.network}
    choice = choose(compressor, config.constraints)
    limit = check_reachable(target, choice.sites, choice.cost, **names, skipped=choice.left_dense)
    problem = problem_of(config, choice, [(target, limit)])
    levels, seconds = _solve(problem, propose, compressor, evaluator)
    record = _record(config, compressor, choice, levels, limit, seconds)
    return Plan(record, compressor, compressor.allocation(levels))


def _bound_without_data(config: SearchConfig) -> Compressor:
    info = data_info(config.task)
    network = load_network(config.task, info)
    return create(config.method, network, example_input(info.shape), config.options)


def _solve(
    problem: Problem, propose: Propose, compressor: Compressor, evaluator: Evaluator | None
) -> tuple[Levels, float]:
    """The levels of the first candidate that the strategy would search, and the seconds it took to choose them.

    Scans on the way are judged here; their time does not count.
    """
    program, start = propose(problem), time.perf_counter()
    proposals, seconds = next(program), time.perf_counter() - start
    while proposals and proposals[0].stage == "scan":
        assert evaluator is not None
        outcomes = [evaluator(proposal.candidate) for proposal in proposals]
        start = time.perf_counter()
        proposals = program.send(outcomes)
        seconds += time.perf_counter() - start
    return compressor.levels(proposals[0].candidate.allocation), seconds


def _record(
    config: SearchConfig, compressor: Compressor, choice: Choice, levels: Levels, limit: int, seconds: float
) -> dict[str, Any]:
    span = reach(choice.sites, choice.cost)
    dense, achieved = compressor.cost.dense, compressor.cost_of(compressor.allocation(levels))
    met = achieved.flops >= limit - TOLERANCE * dense.flops
    return {
        "network": config.task.network,
        "method": config.method,
        "strategy": config.strategies[0],
        "target": {"asked": config.targets[0], "flops": limit, "met": met},
        "dense": dense._asdict(),
        "achieved": {**achieved._asdict(), "kept_flops": achieved.flops / dense.flops},
        "reachable": {"min_kept": span.least.flops / dense.flops, "max_kept": span.most.flops / dense.flops},
        "allocation": {
            site.name: dict(site.settings[level]) for site, level in zip(compressor.sites, levels, strict=True)
        },
        "left_dense": dict(choice.left_dense),
        "uncounted_flops": uncounted_flops(compressor.network, compressor.example),
        "solve_seconds": seconds,
    }

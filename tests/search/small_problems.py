"""Small problems with known answers: sites with random ladders and costs that add up or that multiply like widths."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from methods.base import Cost, Costs, Levels, Setting, Site
from search.allocation.budget import Budget
from search.allocation.targets import parse_target
from search.candidate import Candidate, Outcome
from search.strategies.contract import Program, Proposal
from search.strategies.problem import Problem, Scan

Floats = npt.NDArray[np.float64]


def sites(settings: Sequence[int]) -> list[Site]:
    """Sites with so many settings each, of evenly spread strengths below 1."""
    return [
        Site(f"s{i}", tuple(Setting(level=k) for k in range(n)), tuple(k / n for k in range(n)), (f"s{i}",), n)
        for i, n in enumerate(settings)
    ]


class Separable:
    """FLOPs that add up over sites."""

    def __init__(self, tables: Sequence[Sequence[int]], rest: int = 7) -> None:
        self.tables, self.rest = [np.array(table, dtype=np.int64) for table in tables], rest

    @property
    def dense(self) -> Cost:
        return Cost(*(int(column[0]) for column in self(np.zeros((1, len(self.tables)), dtype=np.intp))))

    def __call__(self, levels: Levels) -> Costs:
        flops = self.rest + sum(table[levels[:, site]] for site, table in enumerate(self.tables))
        return Costs(flops, flops, 4 * flops)


class Chain:
    """A chain of layers: site i keeps n_i − level channels, a layer costs area · in · out (the last out is fixed)."""

    def __init__(self, channels: Sequence[int], areas: Sequence[int], classes: int = 10) -> None:
        self.channels, self.areas, self.classes = np.array(channels), np.array(areas), classes

    @property
    def dense(self) -> Cost:
        return Cost(*(int(column[0]) for column in self(np.zeros((1, len(self.channels)), dtype=np.intp))))

    def __call__(self, levels: Levels) -> Costs:
        kept = self.channels - levels
        ones = np.ones((len(levels), 1), dtype=np.int64)
        inputs, outputs = np.hstack([3 * ones, kept]), np.hstack([kept, self.classes * ones])
        flops = (inputs * outputs * self.areas).sum(1).astype(np.int64)
        return Costs(flops, flops, 4 * flops)


def every(settings: Sequence[int]) -> Levels:
    """All allocations."""
    return np.array(list(itertools.product(*(range(n) for n in settings))), dtype=np.intp)


def rising(rng: np.random.Generator, n: int) -> Floats:
    """Damage along a ladder of n settings: convex or not, never falling, 0 at dense."""
    steps = rng.exponential(size=n - 1) * np.linspace(0.2, 2, n - 1) ** rng.integers(0, 3)
    return np.concatenate([[0.0], np.cumsum(steps)])


def problem(settings: Sequence[int], cost: Any, kept: Sequence[float], **changes: Any) -> Problem:
    """A problem over `sites(settings)` with targets at those fractions."""
    from search.recipe import Recipe

    targets = [(parse_target(f"{k:g}"), Budget({"flops": int(k * cost.dense.flops)}, cost)) for k in kept]
    fields = {"recipe": Recipe(), "scan": Scan(levels=7, images=100), "trials": 6} | changes
    return Problem(method="m", options={}, sites=sites(settings), cost=cost, targets=targets, **fields)


def levels_of(problem: Problem, candidate: Candidate) -> Levels:
    """The levels that a candidate stands for."""
    chosen = candidate.allocation
    return np.array([int(chosen[s.name]["level"]) if s.name in chosen else 0 for s in problem.sites], dtype=np.intp)


def play_strategy(
    problem: Problem, program: Program, judge: Callable[[Levels, Proposal], Outcome]
) -> list[list[Proposal]]:
    """Run a program to its end; the batches it proposed."""
    batches = []
    try:
        batch = next(program)
        while True:
            batches.append(batch)
            batch = program.send([judge(levels_of(problem, proposal.candidate), proposal) for proposal in batch])
    except StopIteration:
        return batches


def outcome_of_loss(problem: Problem, levels: Levels, loss: float) -> Outcome:
    """An outcome of that loss and drift; accuracy falls with it."""
    flops = int(problem.cost(levels[None]).flops[0])
    return Outcome(status="ok", loss=loss, drift=loss, accuracy=float(np.exp(-loss)), flops=flops)

"""What strategies that sample begin with: known candidates near a target, and the first points of other strategies."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

from search.candidate import Outcome
from search.strategies.contract import Proposal
from search.strategies.problem import Problem
from search.strategies.registry import find_strategy

REACH = 0.02  # of the dense figure: how far below a target a known candidate may lie


def lent_points(problem: Problem, name: str) -> Generator[list[Proposal], list[Outcome], list[Proposal]]:
    """Each other strategy's first point for every target; its measurements are shared and charged to `name` too."""
    points: list[Proposal] = []
    for lender in problem.lenders:
        program = find_strategy(lender)[1](replace(problem, trials=1))
        batch = next(program, [])
        while batch and all(proposal.stage == "scan" for proposal in batch):
            batch = program.send((yield [replace(proposal, strategy=name) for proposal in batch]))
        points += batch
        program.close()
    return points

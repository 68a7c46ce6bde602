"""The first proposals of other strategies, with which strategies that sample begin."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

from search.candidate import Outcome
from search.strategies.contract import Proposal
from search.strategies.problem import Problem
from search.strategies.registry import find_strategy

REACH = 0.02  # a known candidate may lie below a target by this share of the dense figure


def lent_points(problem: Problem, name: str) -> Generator[list[Proposal], list[Outcome], list[Proposal]]:
    """The first proposal of each lender for every target.

    The scans that lenders need are judged under the name of the borrowing strategy, which is charged for them too; the
    ledger shares their outcomes.
    """
    points: list[Proposal] = []
    for lender in problem.lenders:
        program = find_strategy(lender)[1](replace(problem, trials=1))
        batch = next(program, [])
        while batch and all(proposal.stage == "scan" for proposal in batch):
            batch = program.send((yield [replace(proposal, strategy=name) for proposal in batch]))
        points += batch
        program.close()
    return points

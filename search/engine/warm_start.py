"""Warm starts: what strategies that sample begin with, from the ledger and from the other strategies of the search.

Outcomes that the ledger knows cost nothing and do not count as trials. Which of them a run begins with is settled when
it begins and kept in its `run.json`: resumed, it proposes what it would have proposed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np

from methods.base import as_key
from search.ledger.ledger import Ledger
from search.strategies.lending import REACH
from search.strategies.problem import KnownCandidate, Problem
from search.strategies.registry import find_strategy

MOST = 8  # known candidates per target, the best


def warm_problem(problem: Problem, ledger: Ledger, strategies: Iterable[str], keys: Collection[str] | None) -> Problem:
    """The problem with what its sampling strategies may begin with.

    Args:
        strategies: of the search; those that scan and propose a point of their own lend it.
        keys: of the known candidates, if that was settled before; None chooses the best near each target.
    """
    infos = [find_strategy(name)[0] for name in strategies]
    lenders = tuple(info.name for info in infos if info.needs_data is not False and not info.samples)
    if not any(info.samples for info in infos):
        return problem
    outcomes = _known_outcomes(problem, ledger)
    if keys is None:
        keys = _best_below_targets(problem, outcomes)
    chosen = [outcome for outcome in outcomes if outcome.key in keys]
    return replace(problem, known_candidates=tuple(chosen), lenders=lenders)


def _known_outcomes(problem: Problem, ledger: Ledger) -> list[KnownCandidate]:
    """Everything known that this very problem could propose: same method, options, recipe, seed, sites."""
    outcomes = []
    for record in ledger.records():
        outcome, levels = record.outcome, problem.levels_of(record.candidate)
        if levels is None or outcome.flops is None or outcome.score is None or outcome.worth is None:
            continue
        # An outcome of an earlier version has another key: its candidate would be judged again.
        if record.key == record.candidate.key(ledger.task):
            outcomes.append(KnownCandidate(record.key, as_key(levels), outcome.flops, outcome.score, outcome.worth))
    return sorted(outcomes, key=lambda outcome: (-outcome.worth, outcome.key))


def _best_below_targets(problem: Problem, outcomes: Sequence[KnownCandidate]) -> set[str]:
    """The keys of the best just below each target.

    Args:
        outcomes: the best first.
    """
    keys = set[str]()
    for _, budget in problem.targets:
        near = [outcome for outcome in outcomes if -REACH <= budget.largest_excess(np.array([outcome.levels]))[0] <= 0]
        keys |= {outcome.key for outcome in near[:MOST]}
    return keys

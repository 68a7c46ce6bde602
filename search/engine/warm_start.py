"""Warm starts: what strategies that sample begin with, from the ledger and from the other strategies of the search.

Outcomes that the ledger knows cost nothing and do not count as trials. Which of them a run begins with is settled when
it begins and kept in its `run.json`: resumed, it proposes what it would have proposed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from methods.base import as_key
from search.ledger.ledger import Ledger
from search.strategies.lending import REACH
from search.strategies.problem import KnownCandidate, Problem
from search.strategies.registry import find_strategy

MOST = 8  # known candidates per target, the best


def warmed(problem: Problem, ledger: Ledger, strategies: Iterable[str], keys: Sequence[str] | None) -> Problem:
    """The problem with what its sampling strategies may begin with.

    Args:
        strategies: of the search; those that scan and propose a point of their own lend it.
        keys: of the known candidates, if that was settled before; None chooses the best near each target.
    """
    infos = [find_strategy(name)[0] for name in strategies]
    lenders = tuple(info.name for info in infos if info.needs_data is not False and not info.samples)
    if not any(info.samples for info in infos):
        return problem
    found = _usable(problem, ledger)
    chosen = _best(problem, found) if keys is None else [each for each in found if each.key in set(keys)]
    return replace(problem, known_candidates=tuple(chosen), lenders=lenders)


def _usable(problem: Problem, ledger: Ledger) -> list[KnownCandidate]:
    """Everything known that this very problem could propose: same method, options, recipe, seed, sites."""
    found = []
    for record in ledger.records():
        outcome, levels = record.outcome, problem.levels_of(record.candidate)
        if levels is None or outcome.flops is None or outcome.accuracy is None or outcome.worth is None:
            continue
        if record.key == record.candidate.key(ledger.task):  # else of an earlier version: it would be judged again
            found.append(KnownCandidate(record.key, as_key(levels), outcome.flops, outcome.accuracy, outcome.worth))
    return sorted(found, key=lambda each: (-each.worth, each.key))


def _best(problem: Problem, found: Sequence[KnownCandidate]) -> list[KnownCandidate]:
    """The best just below each target."""
    keys = set[str]()
    for _, budget in problem.targets:
        near = [each for each in found if -REACH <= budget.largest_excess(np.array([each.levels]))[0] <= 0]
        keys |= {each.key for each in near[:MOST]}
    return [each for each in found if each.key in keys]

"""Finalists: the best searched candidates of each target, fine-tuned longer with several seeds, then tested once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from search.candidate import Outcome
from search.ranking import candidate_name, rank_searched
from search.recipe import Recipe
from search.strategies.contract import Program, Proposal

Seen = Sequence[tuple[Proposal, Outcome]]
Note = Callable[[Seen, list[Proposal]], None]


def finalists(count: int, seeds: int, recipe: Recipe, note: Note | None = None) -> Callable[[Seen], Program]:
    """A program that tests the best `count` candidates of every target with `seeds` seeds each.

    Args:
        note: told what was searched and which finalists were chosen of it, before they are tested.
    """

    def program(seen: Seen) -> Program:
        proposals = []
        for chosen in best_candidates(seen, count):
            for seed in range(seeds):
                changes = {"judge": "test", "recipe": recipe, "seed": seed, "until": None}
                candidate = chosen.candidate.model_copy(update=changes)
                proposals.append(Proposal(candidate, "final", chosen.strategy, chosen.target))
        if note is not None:
            note(seen, proposals)
        yield proposals

    return program


def best_candidates(seen: Seen, count: int) -> list[Proposal]:
    """Per target the first `count` searched candidates of the ranking, each allocation once."""
    judged = [pair for pair in seen if pair[0].stage in ("search", "rung")]
    judged.sort(key=lambda pair: str(pair[0].target))
    chosen: list[Proposal] = []
    for _, group in itertools.groupby(judged, key=lambda pair: str(pair[0].target)):
        proposals, outcomes = zip(*group, strict=True)
        names = [
            candidate_name(
                proposal.strategy,
                proposal.candidate.method,
                str(proposal.candidate.allocation or outcome.allocation),
            )
            for proposal, outcome in zip(proposals, outcomes, strict=True)
        ]
        ranking = [place.candidate for place in rank_searched(proposals, outcomes, names)]
        chosen += _distinct_allocations(ranking)[:count]
    return chosen


def _distinct_allocations(proposals: Sequence[Proposal]) -> list[Proposal]:
    """Each allocation once, where it comes first."""
    distinct: list[Proposal] = []
    for proposal in proposals:
        if all(proposal.candidate.allocation != chosen.candidate.allocation for chosen in distinct):
            distinct.append(proposal)
    return distinct

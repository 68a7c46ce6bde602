"""Finalists: the best searched candidates of each target, fine-tuned longer with several seeds, then tested once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from search.candidate import Outcome
from search.ranking import candidate_name, rank_searched
from search.recipe import Recipe
from search.strategies.contract import Program, Proposal

Seen = Sequence[tuple[Proposal, Outcome]]
Note = Callable[[Seen, list[Proposal]], None]


def finalist_program(count: int, seeds: int, recipe: Recipe, note: Note | None = None) -> Callable[[Seen], Program]:
    """A program that tests the best `count` candidates of every target with `seeds` seeds each.

    Args:
        note: told what was searched and which finalists were chosen of it, before they are tested.
    """

    def test_finalists(seen: Seen) -> Program:
        proposals = []
        for chosen in best_candidates(seen, count):
            for seed in range(seeds):
                # Everything else stays the searched candidate's, `learned_target` included: such a method learns anew.
                changes = {"judge": "test", "recipe": recipe, "seed": seed, "until": None}
                candidate = chosen.candidate.model_copy(update=changes)
                proposals.append(Proposal(candidate, "final", chosen.strategy, chosen.target))
        if note is not None:
            note(seen, proposals)
        yield proposals

    return test_finalists


def best_candidates(seen: Seen, count: int) -> list[Proposal]:
    """Per target the first `count` searched candidates of the ranking, each allocation once."""
    by_target: dict[str, list[tuple[Proposal, Outcome]]] = {}
    for proposal, outcome in seen:
        if proposal.stage in ("search", "rung"):
            by_target.setdefault(str(proposal.target), []).append((proposal, outcome))
    chosen: list[Proposal] = []
    for target in sorted(by_target):
        proposals, outcomes = zip(*by_target[target], strict=True)
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

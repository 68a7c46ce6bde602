"""Finalists: the best searched candidates of each target, fine-tuned longer with several seeds, then tested once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from search.candidate import Outcome, Recipe
from search.ranking import best_first
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
    """Per target the `count` searched candidates that are worth most, each allocation once.

    What is best says `ranking.best_first`; ties go to the order of names, never to who finished first.
    """
    judged = [pair for pair in seen if pair[0].stage in ("search", "rung") and pair[1].accuracy is not None]
    judged.sort(key=lambda pair: (str(pair[0].target), pair[0].strategy, pair[0].candidate.model_dump_json()))
    found: list[Proposal] = []
    for _, group in itertools.groupby(judged, key=lambda pair: str(pair[0].target)):
        rivals = list(group)
        order = best_first([outcome for _, outcome in rivals])
        found += _apart([rivals[index][0] for index in order])[:count]
    return found


def _apart(proposals: Sequence[Proposal]) -> list[Proposal]:
    """Each allocation once, where it comes first."""
    found: list[Proposal] = []
    for proposal in proposals:
        if all(proposal.candidate.allocation != other.candidate.allocation for other in found):
            found.append(proposal)
    return found

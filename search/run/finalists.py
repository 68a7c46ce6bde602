"""Finalists: the best searched candidates of each target, fine-tuned longer with several seeds, then tested once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from search.candidate import Outcome, Recipe
from search.strategy import Program, Proposal

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

    One that was stopped at a rung comes after all that were trained for longer. Ties go to the lower loss, then to
    the order of names, never to who finished first.
    """
    judged = [pair for pair in seen if pair[0].stage in ("search", "rung") and pair[1].accuracy is not None]
    judged.sort(key=_rank)
    chosen: dict[str | None, list[Proposal]] = {}
    for proposal, _ in judged:
        best = chosen.setdefault(proposal.target, [])
        known = any(proposal.candidate.allocation == other.candidate.allocation for other in best)
        if len(best) < count and not known:
            best.append(proposal)
    return [proposal for target in sorted(chosen, key=str) for proposal in chosen[target]]


def _rank(pair: tuple[Proposal, Outcome]) -> tuple[float, float, float, str, str]:
    proposal, outcome = pair
    assert outcome.worth is not None
    assert outcome.loss is not None
    return (-outcome.epochs, -outcome.worth, outcome.loss, proposal.strategy, proposal.candidate.model_dump_json())

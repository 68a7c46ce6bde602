"""Who meets the test set."""

from __future__ import annotations

import random

from search.allocation.targets import parse_target
from search.candidate import Candidate, Outcome, failed_outcome
from search.engine.finalists import Seen, best_candidates, finalist_program
from search.recipe import Recipe
from search.strategies.contract import Proposal

RECIPE = Recipe(epochs=9)


def entry(
    number: int, accuracy: float | None, *, loss: float = 1.0, target: str = "0.5", strategy: str = "a", **other: object
) -> tuple[Proposal, Outcome]:
    candidate = Candidate(method="fake", allocation={"conv": {"ratio": number}}, recipe=Recipe(epochs=1), seed=0)
    outcome = failed_outcome("no") if accuracy is None else Outcome(status="ok", accuracy=accuracy, loss=loss)
    return Proposal(candidate, other.get("stage", "search"), strategy, parse_target(target)), outcome  # type: ignore[arg-type]


def numbers(seen: Seen, count: int) -> list[object]:
    return [proposal.candidate.allocation["conv"]["ratio"] for proposal in best_candidates(seen, count)]


def test_the_best_of_each_target() -> None:
    seen = [entry(1, 0.5), entry(2, 0.7), entry(3, 0.6), entry(4, 0.2, target="0.3"), entry(5, 0.1, target="0.3")]
    assert numbers(seen, 1) == [4, 2]
    assert numbers(seen, 2) == [4, 5, 2, 3]
    assert numbers(seen, 9) == [4, 5, 2, 3, 1]
    assert numbers(seen, 0) == []


def test_neither_scans_nor_failures_nor_twins() -> None:
    seen = [
        entry(1, 0.99, stage="scan"), entry(2, None), entry(3, 0.6, strategy="b"), entry(3, 0.6, strategy="a"),
        entry(4, 0.5),
    ]  # fmt: skip
    assert numbers(seen, 2) == [3, 4]
    assert best_candidates(seen, 1)[0].strategy == "a"


def test_ties_go_to_the_loss_never_to_the_order() -> None:
    seen = [entry(i, 0.5, loss=loss) for i, loss in enumerate([0.4, 0.3, 0.3, 0.9])]
    expected = numbers(seen, 4)
    assert expected[0] in (1, 2)
    assert expected[2:] == [0, 3]
    for seed in range(10):
        random.Random(seed).shuffle(seen)
        assert numbers(seen, 4) == expected


def test_what_accuracy_cannot_tell_apart_is_ordered_by_drift() -> None:
    """100 images and 0.8: a standard error of 0.04. Of what lies within it the least drift comes first."""
    found = [(0.80, 0.30), (0.77, 0.10), (0.76, 0.20), (0.75, 0.01), (0.70, 0.02)]
    pairs = []
    for number, (accuracy, drift) in enumerate(found):
        proposal, _ = entry(number, accuracy)
        pairs.append((proposal, Outcome(status="ok", accuracy=accuracy, loss=1.0, drift=drift, images=100)))
    assert numbers(pairs, 5) == [1, 2, 0, 3, 4]
    longer = [(each, outcome.model_copy(update={"epochs": 2.0})) for each, outcome in pairs[4:]]
    assert numbers([*pairs[:4], *longer], 5) == [4, 1, 2, 0, 3], "those trained for longer are not compared with others"
    unknown = [(each, outcome.model_copy(update={"drift": None})) for each, outcome in pairs]
    assert numbers(unknown, 5) == [0, 1, 2, 3, 4]


def test_every_seed_meets_the_test_set_once() -> None:
    seen = [entry(1, 0.5), entry(2, 0.7), entry(4, 0.2, target="0.3")]
    noted: list[object] = []
    program = finalist_program(1, 3, RECIPE, lambda *event: noted.append(event))(seen)
    batch = next(program)
    assert [(str(p.target), p.candidate.seed) for p in batch] == [(t, s) for t in ("0.3", "0.5") for s in range(3)]
    assert {p.candidate.judge for p in batch} == {"test"}
    assert {p.candidate.recipe for p in batch} == {RECIPE}
    assert {p.stage for p in batch} == {"final"}
    assert len({p.candidate.key("t") for p in batch}) == 6
    assert noted == [(seen, batch)]


def test_nobody_qualifies() -> None:
    assert next(finalist_program(2, 3, RECIPE)([entry(1, None)])) == []


def test_where_weights_remember_the_search_images_merit_ranks() -> None:
    """A candidate of lower accuracy and higher merit comes first; one without merit is ranked by its accuracy."""
    proposals = [entry(i, 0.9 - i / 10)[0] for i in range(2)]
    outcomes = [
        Outcome(status="ok", accuracy=0.9, loss=0.1, merit=-1.4),
        Outcome(status="ok", accuracy=0.8, loss=0.2, merit=-1.2),
    ]
    (best,) = best_candidates(list(zip(proposals, outcomes, strict=True)), 1)
    assert best == proposals[1]
    assert Outcome(status="ok", accuracy=0.7).worth == 0.7

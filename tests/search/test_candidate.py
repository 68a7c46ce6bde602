"""One identity of a candidate: another value in any field is another candidate, for keys, sets and ledgers alike."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import TypeAdapter

from methods.base import Allocation
from search.candidate import Candidate, Outcome
from search.export.config import ExportConfig
from search.ledger.ledger import Ledger
from search.recipe import Recipe
from search.settings.config import RunConfig

TASK = "0123456789abcdef"
FULL = Candidate(
    method="l1+kse",
    options={"l1.x": 1, "y": [0.5, "s"]},
    allocation=Allocation({"conv2": {"ratio": 0.25}, "conv1": {"T": 1, "G": 4}}),
    recipe=Recipe(epochs=1.5, lr=0.02, schedule="one-cycle"),
    seed=3,
    images=2000,
    until=0.5,
)
GOLDEN = "15ca1607553fbf335487"
"""Of `FULL` without features, as every version since the first ledger of this form has computed it."""
OTHERS: dict[str, list[Any]] = {
    "method": ["l1", ""],
    "options": [{}, {"l1.x": 2, "y": [0.5, "s"]}, {"l1.x": 1, "y": ["s", 0.5]}, {"l1.x": 1}],
    "allocation": [
        {},
        {"conv1": {"T": 1, "G": 4}},
        {"conv2": {"ratio": 0.25}, "conv1": {"T": 1, "G": 3}},
        {"conv2": {"ratio": 0.25}, "conv1": {"T": 1}},
        {"conv2": {"ratio": 0.25}, "conv3": {"T": 1, "G": 4}},
    ],
    "seed": [0, 4],
    "judge": ["test"],
    "images": [None, 2001],
    "learned_target": [0.5, 0.50001],
    "until": [None, 0.0, 0.25],
}


def changed(model: Candidate | Recipe, **fields: Any) -> Any:
    """The model with other values, validated."""
    return type(model)(**{name: getattr(model, name) for name in type(model).model_fields} | fields)


def other_recipes() -> list[Recipe]:
    """For every field of a recipe, one that differs there alone."""
    recipes = []
    for name, field in Recipe.model_fields.items():
        value = getattr(FULL.recipe, name)
        if get_origin(field.annotation) is Literal:
            other = next(choice for choice in get_args(field.annotation) if choice != value)
        else:
            other = value + 1 if isinstance(value, int) else value / 2 + 0.125
        recipes.append(changed(FULL.recipe, **{name: other}))
        assert getattr(recipes[-1], name) != value
    return recipes


def test_every_field_is_tried() -> None:
    assert set(OTHERS) == set(Candidate.model_fields) - {"recipe"}


def test_another_value_of_any_field_is_another_candidate() -> None:
    others = [changed(FULL, **{name: value}) for name, values in OTHERS.items() for value in values]
    others += [changed(FULL, recipe=recipe) for recipe in other_recipes()]
    candidates = [FULL, *others]
    assert len({candidate.key(TASK) for candidate in candidates}) == len(candidates)
    assert len(set(candidates)) == len(candidates)
    assert all(other != FULL for other in others)


def test_another_task_gives_another_key() -> None:
    assert len({FULL.key(task) for task in (TASK, TASK[:-1], "", "x")}) == 4


def test_the_key_is_that_of_ledgers_written_before() -> None:
    """The key of a recipe that distils no features, or nothing, or trains for no step, does not name their weight."""
    old = changed(FULL, recipe=changed(FULL.recipe, distill_features=0.0))
    assert old.key(TASK) == GOLDEN
    assert changed(old, judge="test").key("t") == "c867e943f006eadf86ef"
    recipe = Recipe(lr=0.01, distill_features=0)
    assert Candidate(method="l1", allocation={}, recipe=recipe).key("t") == "045a7b5dcfe96b1fe6b9"
    for idle in ({"epochs": 0.0}, {"distill_weight": 0.0}):
        twins = [changed(FULL, recipe=changed(FULL.recipe, **idle, distill_features=weight)) for weight in (0.0, 10.0)]
        assert twins[0].key(TASK) == twins[1].key(TASK)
        assert twins[0] == twins[1]


def test_a_recipe_of_an_earlier_version_distilled_no_features() -> None:
    """In a ledger, in `run.json` and in an export alike; what is built from code has the default."""
    stored = FULL.model_dump(mode="json")
    del stored["recipe"]["distill_features"]
    read = Candidate.model_validate(stored)
    assert read.recipe == changed(FULL.recipe, distill_features=0.0)
    assert read.key(TASK) == GOLDEN
    for owner in (RunConfig, ExportConfig):
        field = owner.model_fields["recipe"]
        assert TypeAdapter(field.rebuild_annotation()).validate_python(stored["recipe"]) == read.recipe
    assert Recipe().distill_features > 0
    assert Candidate(method="l1", allocation={}).recipe == Recipe()


@pytest.mark.parametrize(
    "same",
    [
        changed(FULL, allocation={"conv1": {"G": 4, "T": 1}, "conv2": {"ratio": 0.25}}),
        changed(FULL, options={"y": [0.5, "s"], "l1.x": 1}),
        Candidate.model_validate_json(FULL.model_dump_json()),
        FULL.model_copy(deep=True),
    ],
)
def test_the_order_of_names_and_a_way_through_json_change_nothing(same: Candidate) -> None:
    assert same == FULL
    assert len({same, FULL}) == 1
    assert same.key(TASK) == FULL.key(TASK)


def test_a_copy_with_another_value_forgets_the_old_identity() -> None:
    assert hash(FULL) == hash(FULL.model_copy())
    assert FULL.without_rung != FULL
    assert FULL.without_rung == changed(FULL, until=None)
    assert FULL.without_seed == changed(FULL, seed=0)
    assert FULL.model_copy(update={"seed": 7}).without_seed.key(TASK) == FULL.without_seed.key(TASK)


def test_a_ledger_finds_what_it_was_given_under_that_key(tmp_path: Any) -> None:
    with Ledger(str(tmp_path / "ledger.db"), TASK, "title") as ledger:
        ledger.add(FULL, Outcome(status="ok", accuracy=0.5))
    with Ledger(str(tmp_path / "ledger.db"), TASK, "title") as ledger:
        (record,) = ledger.records()
        assert (record.key, record.candidate) == (FULL.key(TASK), FULL)
        assert ledger.get(FULL.key(TASK)) is not None

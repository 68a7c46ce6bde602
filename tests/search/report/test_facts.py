"""The facts of a run as its report puts them."""

from __future__ import annotations

from typing import Any

import pytest

from models.task_config import TaskConfig
from search.recipe import Recipe
from search.report.facts import image_words, recipe_words
from search.settings.config import RunConfig

CHANGES = {"epochs": 7.0, "batch_size": 33, "lr": 0.123, "schedule": "one-cycle", "momentum": 0.77,
           "weight_decay": 0.0031, "label_smoothing": 0.21, "distill_weight": 0.0, "temperature": 2.5,
           "distill_features": 12.5, "recalibration_images": 77}  # fmt: skip
IMAGES = {"mean": (0.3,), "std": (0.6,), "flip": True, "crop": 3, "search_fraction": 0.37, "split_seed": 41,
          "train_images": 99}  # fmt: skip


def words_of(**changes: Any) -> str:
    task = TaskConfig(network="small")
    return recipe_words(RunConfig(name="a", task=task, recipe=Recipe(**changes), final_epochs=5))


@pytest.mark.parametrize("name", Recipe.model_fields)
def test_every_setting_of_a_fine_tune_is_told(name: str) -> None:
    """A setting that is added later is missing in `CHANGES`: give it a value there."""
    changed = words_of(**{name: CHANGES[name]})
    assert changed != words_of()
    assert str(CHANGES[name]).removesuffix(".0") in changed
    assert "finalists 5;" in changed


@pytest.mark.parametrize("name", TaskConfig.model_fields.keys() - {"task", "network", "weights", "data", "data_root"})
def test_how_images_are_read_is_told_where_it_was_chosen(name: str) -> None:
    assert image_words(TaskConfig(network="small")) == ""
    assert image_words(TaskConfig(network="small", **{name: IMAGES[name]})) == (
        f"; {name.replace('_', ' ')} {IMAGES[name]}"
    )

"""Configurations from what was typed: the embedded task's own defaults, and options of methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.errors import UserError
from models.tasks.load import load_task
from search.judge.baseline import train_missing_baseline
from search.settings.commands import COMPARE, COMPARE_FIXED, SEARCH
from search.settings.config import RunConfig
from search.settings.inputs import task_of
from search.settings.new_config import new_run_config
from search.settings.setting import model_fields, read_settings


def searched(folder: Path, network: str | None = None, **given: Any) -> RunConfig:
    """The configuration of `search` with these keywords."""
    values = read_settings(SEARCH, {"results": str(folder), "name": "x", **given})
    fields = model_fields(SEARCH, values, RunConfig)["task"]
    return new_run_config(SEARCH, values, task_of(network, None, results=str(folder), **fields))


def test_the_embedded_network_has_not_seen_the_images_that_rank_its_candidates(tmp_path: Path) -> None:
    task = searched(tmp_path).task
    train_missing_baseline(task)
    assert not load_task(task, "cpu").seen


def test_a_search_fraction_that_is_given_is_taken(tmp_path: Path) -> None:
    assert searched(tmp_path, search_fraction=0.4).task.search_fraction == 0.4
    assert searched(tmp_path, search_fraction=0.1).task.search_fraction == 0.1
    assert searched(tmp_path, network="resnet20").task.search_fraction == 0.1


def test_lists_of_measures_are_crossed(tmp_path: Path) -> None:
    crossed = searched(tmp_path, targets="0.5,0.3", target_params="0.4").targets
    assert [target.asked for target in crossed] == ["flops 0.5 + params 0.4", "flops 0.3 + params 0.4"]
    assert [target.asked for target in searched(tmp_path, targets="0.5, 60M").targets] == ["0.5", "60M"]


@pytest.mark.parametrize("option", ["alpha=2", "kse.alpha=2"])
def test_an_option_may_begin_with_the_name_of_its_method(tmp_path: Path, option: str) -> None:
    config = searched(tmp_path, network="resnet20", method="kse", options=[option])
    assert config.options == {"kse": {"alpha": 2}}


def test_options_of_a_composition_keep_the_names_of_its_parts(tmp_path: Path) -> None:
    config = searched(tmp_path, network="resnet20", method="l1+kse", options=["kse.alpha=2", "l1+kse.kse.neighbours=3"])
    assert config.options == {"l1+kse": {"kse.alpha": 2, "kse.neighbours": 3}}


def test_an_option_of_another_method_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown option of kse 'random\.seed'"):
        searched(tmp_path, network="resnet20", method="kse", options=["random.seed=2"])
    values = read_settings(COMPARE, {"methods": ["kse"], "options": ["alpha=2"], "name": "x"})
    with pytest.raises(UserError, match=r"'alpha=2' is not METHOD\.NAME=VALUE"):
        new_run_config(COMPARE, values, task_of("resnet20", None, results=str(tmp_path)), **COMPARE_FIXED)


def test_a_comparison_hands_each_method_its_options(tmp_path: Path) -> None:
    options = ["kse.alpha=2", "l1+kse.kse.alpha=0.5"]
    values = read_settings(COMPARE, {"methods": "kse,l1+kse", "options": options, "name": "x"})
    made = new_run_config(COMPARE, values, task_of("resnet20", None, results=str(tmp_path)), **COMPARE_FIXED)
    assert made.options == {"kse": {"alpha": 2}, "l1+kse": {"kse.alpha": 0.5}}

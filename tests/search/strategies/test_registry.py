"""The registry of strategies, and what a problem makes of levels."""

from __future__ import annotations

import numpy as np
import pytest
from toys import ChainCost, even_sites, toy_problem

from models.errors import UserError
from search.recipe import Recipe
from search.strategies.contract import StrategyInfo
from search.strategies.problem import Scan
from search.strategies.registry import find_strategy, register, strategy_infos


def test_every_strategy_says_what_it_is() -> None:
    known = strategy_infos()
    assert {"acra-uniform", "acra-sensitivity"} <= known.keys()
    assert list(known) == sorted(known)
    for name, info in known.items():
        assert info.name == name
        assert info.summary
        assert info.source
        assert find_strategy(name)[0] is info


def test_acra_uniform_needs_no_data() -> None:
    assert not strategy_infos()["acra-uniform"].needs_data
    assert strategy_infos()["acra-sensitivity"].needs_data


def test_a_name_can_be_taken_only_once() -> None:
    before = find_strategy("acra-uniform")
    with pytest.raises(ValueError, match="acra-uniform"):
        register(StrategyInfo("acra-uniform", "again", "nowhere"))(lambda problem: iter(()))  # type: ignore[arg-type, return-value]
    assert find_strategy("acra-uniform") is before


def test_an_unknown_name_is_told_the_closest() -> None:
    with pytest.raises(UserError, match="acra-uniform"):
        find_strategy("acra-unifrom")
    with pytest.raises(UserError, match="known: "):
        find_strategy("zzzzzz")


def test_candidates_name_only_what_is_compressed() -> None:
    sites = even_sites([4, 5, 6])
    problem = toy_problem(sites, ChainCost([4, 5, 6], [1, 1, 1]), [0.5], seed=7, recipe=Recipe(epochs=3))
    candidate = problem.candidate(np.array([0, 2, 5]))
    assert candidate.allocation == {"s1": {"ratio": pytest.approx(0.4)}, "s2": {"ratio": pytest.approx(5 / 6)}}
    assert (candidate.seed, candidate.recipe.epochs, candidate.images, candidate.judge) == (7, 3, None, "search")


@pytest.mark.parametrize(("images", "wanted"), [(50, 50), (None, 10**9)])
def test_scans_never_train(images: int | None, wanted: int) -> None:
    recipe = Recipe(epochs=3, recalibration_images=64)
    problem = toy_problem(even_sites([4]), ChainCost([4], [1]), [0.5], scan=Scan(2, images), recipe=recipe)
    candidate = problem.scan_candidate(0, 1)
    assert candidate.recipe.epochs == 0
    assert candidate.recipe.recalibration_images == 64
    assert candidate.images == wanted
    assert candidate.judge == "search"

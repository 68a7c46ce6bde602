"""What a problem's candidates hold: nothing dense, no training in a scan."""

from __future__ import annotations

import numpy as np
import pytest
from toys import ChainCost, even_sites, toy_problem

from search.recipe import Recipe
from search.strategies.problem import Scan


def test_candidates_name_only_what_is_compressed() -> None:
    sites = even_sites([4, 5, 6])
    problem = toy_problem(sites, ChainCost([4, 5, 6], [1, 1, 1]), [0.5], seed=7, recipe=Recipe(epochs=3))
    candidate = problem.candidate(np.array([0, 2, 5]))
    assert candidate.allocation == {"s1": {"ratio": pytest.approx(0.4)}, "s2": {"ratio": pytest.approx(5 / 6)}}
    assert (candidate.seed, candidate.recipe.epochs, candidate.images, candidate.judge) == (7, 3, None, "search")


def test_scans_never_train() -> None:
    recipe = Recipe(epochs=3, recalibration_images=64)
    problem = toy_problem(even_sites([4]), ChainCost([4], [1]), [0.5], scan=Scan(2, 50), recipe=recipe)
    candidate = problem.scan_candidate(0, 1)
    assert candidate.recipe.epochs == 0
    assert candidate.recipe.recalibration_images == 64
    assert candidate.images == 50
    assert candidate.judge == "search"

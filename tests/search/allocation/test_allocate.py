"""Projection onto a target against brute force over every allocation of small ladders."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import ChainCost, TableCost, even_sites, toy_site

from methods.base import CostModel, Site
from methods.registry import create
from models.errors import UserError
from models.networks.catalog import build_network
from search.allocation.allocate import (
    Ladders,
    Shape,
    check_reachable,
    find_scale,
    project_shape,
    reachable_ranges,
    uniform_shape,
)
from search.allocation.budget import Budget
from search.allocation.targets import TOLERANCE, parse_target


def flops_reach(sites: list[Site], cost: CostModel) -> tuple[int, int]:
    (span,) = reachable_ranges(Budget({"flops": 0}, cost), sites)
    return span


def everything(sites: list[Site], cost: CostModel) -> np.ndarray:
    """FLOPs of every allocation there is."""
    levels = np.array(list(itertools.product(*(range(len(site.settings)) for site in sites))))
    return cost(levels).flops


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[Site], TableCost]:
    """Up to four sites of up to five settings; strengths rise, costs fall, both unevenly."""
    sites, costs = [], []
    for index in range(draw(st.integers(1, 4))):
        steps = draw(st.lists(st.integers(0, 400), min_size=0, max_size=4))
        floor = draw(st.integers(0, 200))
        costs.append(list(np.cumsum([floor, *steps])[::-1]))
        marks = sorted(draw(st.lists(st.integers(1, 1000), min_size=len(steps), max_size=len(steps))))
        sites.append(toy_site(f"s{index}", [0.0, *(mark / 1000 for mark in marks)]))
    return sites, TableCost(costs)


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[Site], ChainCost]:
    sizes = draw(st.lists(st.integers(2, 6), min_size=1, max_size=4))
    places = draw(st.lists(st.integers(1, 64), min_size=len(sizes), max_size=len(sizes)))
    return even_sites(sizes), ChainCost(sizes, places)


@settings(max_examples=300)
@given(st.one_of(tables(), chains()), st.floats(0, 1), st.integers(0, 2**32))
def test_never_above_the_limit_and_never_leaves_room_for_a_step(
    case: tuple[list[Site], CostModel], share: float, seed: int
) -> None:
    sites, cost = case
    flops = everything(sites, cost)
    limit = int(flops.min() + share * (flops.max() - flops.min()))
    weights = np.random.default_rng(seed).uniform(0, 1, len(sites))
    shape = lambda scales: np.minimum(1, scales[:, None] * (weights + scales[:, None]))  # noqa: E731
    solution = project_shape(shape, sites, Budget({"flops": limit}, cost))
    exact = int(cost(solution.levels[None]).flops[0])
    assert solution.cost.flops == exact <= limit
    assert solution.met == (exact >= limit - TOLERANCE * cost.dense.flops)
    for index in np.flatnonzero(solution.levels):
        relaxed = solution.levels.copy()
        relaxed[index] -= 1
        gentler = int(cost(relaxed[None]).flops[0])
        assert gentler > limit or solution.met


def test_met_nearly_whenever_it_can_be() -> None:
    """The fill is greedy; counted over random chains, it misses a target that some allocation meets in 1 of 100."""
    random = np.random.default_rng(0)
    possible = missed = 0
    for _ in range(300):
        sizes = random.integers(3, 9, 4).tolist()
        sites, cost = even_sites(sizes), ChainCost(sizes, random.integers(1, 64, 4).tolist())
        flops = everything(sites, cost)
        limit = int(random.uniform(0.2, 0.95) * cost.dense.flops)
        if flops[(flops <= limit)].max(initial=0) < limit - TOLERANCE * cost.dense.flops:
            continue
        possible += 1
        missed += not project_shape(uniform_shape(4), sites, Budget({"flops": limit}, cost)).met
    assert possible > 250
    assert missed <= possible // 100, f"{missed} of {possible}"


@given(chains(), st.lists(st.floats(0, 1), min_size=2, max_size=6), st.integers(0, 2**32))
def test_a_larger_budget_never_compresses_a_site_harder(
    case: tuple[list[Site], ChainCost], shares: list[float], seed: int
) -> None:
    sites, cost = case
    least, largest = flops_reach(sites, cost)
    limits = [least, *(int(least + share * (largest - least)) for share in sorted(shares)), largest]
    shape, ladders = power_shape(exponents_at_random(len(sites), seed)), Ladders(sites)
    levels = [find_scale(shape, ladders, Budget({"flops": limit}, cost))[0] for limit in limits]
    assert (cost(np.stack(levels)).flops <= limits).all()
    for tighter, looser in itertools.pairwise(levels):
        assert (looser <= tighter).all()
    assert not levels[-1].any(), "the largest budget is that of the dense network"


def exponents_at_random(n_sites: int, seed: int) -> np.ndarray:
    return 4 ** np.random.default_rng(seed).uniform(-1, 1, n_sites)


def power_shape(exponents: np.ndarray) -> Shape:
    return lambda scales: scales[:, None] ** exponents


def gentlest_by_trying_all(sites: list[Site], exponents: np.ndarray, limit: int, cost: CostModel) -> np.ndarray:
    """Levels at the least scale that fits; levels change only where some site reaches a strength of its ladder."""
    steps = {0.0, *(s ** (1 / e) for site, e in zip(sites, exponents, strict=True) for s in site.strengths)}
    for scale in sorted(steps):
        wanted = scale**exponents
        levels = [sum(s <= w + 1e-9 for s in site.strengths) - 1 for site, w in zip(sites, wanted, strict=True)]
        if int(cost(np.array([levels])).flops[0]) <= limit:
            break
    return np.array(levels)


def relaxed_by_hand(levels: np.ndarray, wanted: np.ndarray, sites: list[Site], limit: int, cost: CostModel) -> Any:
    """Single steps towards dense, where a site is furthest above its wish first; None if two are equally far."""
    while True:
        steps = []
        for index in np.flatnonzero(levels):
            gentler = levels - (np.arange(len(levels)) == index)
            if int(cost(gentler[None]).flops[0]) <= limit:
                steps.append((sites[index].strengths[levels[index]] - wanted[index], gentler))
        if not steps:
            return levels
        steps.sort(key=lambda step: -step[0])
        if len(steps) > 1 and steps[0][0] - steps[1][0] < 1e-6:
            return None
        levels = steps[0][1]


@pytest.mark.parametrize("sizes", [(12, 7, 19), (60, 90), (700, 900, 800)])
def test_the_scale_is_the_least_that_fits_and_its_levels_those_of_the_ladders(sizes: tuple[int, ...]) -> None:
    """Against every scale at which a level changes, for shapes and budgets at random."""
    random = np.random.default_rng(len(sizes))
    sites, compared = even_sites(sizes), 0
    for seed in range(50):
        cost = ChainCost(sizes, random.integers(1, 64, len(sizes)).tolist())
        exponents = exponents_at_random(len(sizes), seed)
        shape, limit = power_shape(exponents), int(random.uniform(*flops_reach(sites, cost)))
        budget = Budget({"flops": limit}, cost)
        expected = gentlest_by_trying_all(sites, exponents, limit, cost)
        levels, scale = find_scale(shape, Ladders(sites), budget)
        assert levels.tolist() == expected.tolist()
        filled = relaxed_by_hand(expected, shape(np.array([scale]))[0], sites, limit, cost)
        if filled is not None and budget.is_met(filled):
            compared += 1
            assert project_shape(shape, sites, budget).levels.tolist() == filled.tolist()
    assert compared > 10, "projection itself was compared, not its first half alone"


def test_uniform_is_the_gentlest_common_strength() -> None:
    """Without rounding to fill up, it is the smallest strength in the ladders that fits, found here by trying all."""
    sizes, places = [8, 16, 32], [64, 16, 4]
    sites, cost = even_sites(sizes), ChainCost(sizes, places)
    every = sorted({strength for site in sites for strength in site.strengths})
    for remaining_shares in (0.9, 0.7, 0.5, 0.3, 0.1):
        limit = int(remaining_shares * cost.dense.flops)
        solution = project_shape(uniform_shape(3), sites, Budget({"flops": limit}, cost))
        for strength in every:
            levels = [sum(s <= strength + 1e-9 for s in site.strengths) - 1 for site in sites]
            if int(cost(np.array([levels])).flops[0]) <= limit:
                break
        gap = [
            abs(site.strengths[a] - site.strengths[b])
            for site, a, b in zip(sites, solution.levels, levels, strict=True)
        ]
        assert max(gap) <= 0.15, remaining_shares
        assert solution.cost.flops >= int(cost(np.array([levels])).flops[0])


def test_reach_by_brute_force() -> None:
    sites, cost = even_sites([4, 3, 5]), ChainCost([4, 3, 5], [9, 4, 1])
    flops = everything(sites, cost)
    assert flops_reach(sites, cost) == (flops.min(), flops.max())


def test_both_ends_are_within_reach() -> None:
    sites, cost = even_sites([4, 3]), ChainCost([4, 3], [9, 4])
    least, largest = flops_reach(sites, cost)
    assert project_shape(uniform_shape(2), sites, Budget({"flops": largest}, cost)).levels.tolist() == [0, 0]
    assert project_shape(uniform_shape(2), sites, Budget({"flops": least}, cost)).levels.tolist() == [3, 2]


def test_a_shape_that_ends_too_soon_still_gives_an_allocation_below_the_limit() -> None:
    sites, cost = even_sites([8, 8]), ChainCost([8, 8], [9, 9])
    limit = int(0.2 * cost.dense.flops)
    solution = project_shape(
        lambda scales: np.repeat(0.1 * scales[:, None], 2, axis=1), sites, Budget({"flops": limit}, cost)
    )
    assert solution.cost.flops <= limit


@pytest.mark.parametrize("text", ["0.001", "1", "0.02", "100G"])
def test_out_of_reach_names_the_range(text: str) -> None:
    sites, cost = even_sites([4, 3]), TableCost([[500, 400, 300, 200], [500, 400, 300]])
    target = parse_target(text)
    if text == "1":
        assert check_reachable(target, sites, cost, method="l1", network="toy").limits == {"flops": 1000}
        return
    with pytest.raises(UserError) as caught:
        check_reachable(target, sites, cost, method="l1", network="toy")
    message = str(caught.value)
    assert repr(text) in message
    assert "500 to 1K" in message
    assert re.search(r"kept 0\.5000 to 1", message)
    assert "l1 on toy" in message


def test_no_sites_reach_only_the_dense_network() -> None:
    cost = create("l1", torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)), torch.randn(2, 3, 2, 2)).cost
    assert check_reachable(parse_target("1"), [], cost, method="l1", network="toy").limits == {"flops": 36}
    with pytest.raises(UserError, match="out of reach"):
        check_reachable(parse_target("0.9"), [], cost, method="l1", network="toy")


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "densenet40", "small"])
def test_real_networks_within_half_a_percent(name: str) -> None:
    channels = 1 if name == "small" else 3
    size = 8 if name == "small" else 32
    network = build_network(name, classes=10, channels=channels)
    compressor = create("l1", network, torch.randn(2, channels, size, size))
    for target in np.linspace(0.05, 0.99, 25):
        limit = int(target * compressor.cost.dense.flops)
        solution = project_shape(
            uniform_shape(len(compressor.sites)), compressor.sites, Budget({"flops": limit}, compressor.cost)
        )
        assert target - TOLERANCE - 1e-6 <= solution.cost.flops / compressor.cost.dense.flops <= target
        assert solution.met


def test_settings_that_take_longer_than_the_dense_layer_are_said_to() -> None:
    cost = TableCost([[36, 40, 44]])
    with pytest.raises(UserError, match=r"svd at its hardest leaves 44 FLOPs of toy, which is no less$"):
        check_reachable(parse_target("0.9"), even_sites([3]), cost, method="svd", network="toy")

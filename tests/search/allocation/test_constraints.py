"""Constraints on sites: every method and strategy keeps to them, and what cannot be meant is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from methods.base import Compressor, example_input
from methods.registry import create, method_info, methods
from methods.testing.small_networks import SHAPE, random_batches, small_network
from models.errors import UserError
from models.task_config import TaskConfig
from search.allocation.allocate import reachable_ranges
from search.allocation.budget import Budget
from search.allocation.choice import Choice, constrain_choice
from search.allocation.constraints import Constraints, kept_fraction
from search.allocation.targets import parse_target
from search.candidate import Outcome
from search.engine.prepare_method import budget_of, problem_of
from search.settings.commands import SEARCH
from search.settings.config import RunConfig
from search.settings.new_config import new_run_config
from search.settings.setting import read_settings
from search.strategies.contract import Proposal
from search.strategies.problem import Problem
from search.strategies.registry import find_strategy, strategy_infos

STRATEGIES = [name for name in strategy_infos() if name != "learned"]


def bind_method(method: str, network: str) -> Compressor:
    compressor = create(method, small_network(network), example_input(SHAPE))
    if method_info(method).needs_calibration:
        compressor.calibrate(random_batches(2))
    return compressor


def halfway_problem(choice: Choice, method: str, **changes: Any) -> Problem:
    """Half way between the least and the most that can be reached."""
    ((least, largest),) = reachable_ranges(Budget({"flops": 0}, choice.cost), choice.sites)
    target = parse_target(f"{(least + largest) / 2 / choice.cost.dense.flops:.4f}")
    config = RunConfig(
        task=TaskConfig(network="small"), methods=(method,), name="x", trials=5, scan_levels=3, **changes
    )
    return problem_of(config, choice, [(target, budget_of(config, choice, target))])


def play_strategy(problem: Problem, name: str) -> list[Proposal]:
    """All that a strategy proposes when judged by a made-up loss."""
    program, rng, proposals = find_strategy(name)[1](problem), np.random.default_rng(0), list[Proposal]()
    try:
        batch = next(program)
        while True:
            proposals += batch
            losses = [float(0.1 * len(proposal.candidate.allocation) + rng.uniform(0, 0.1)) for proposal in batch]
            outcomes = [
                Outcome(status="ok", accuracy=float(np.exp(-loss)), loss=loss, drift=loss, flops=1) for loss in losses
            ]
            batch = program.send(outcomes)
    except StopIteration:
        return proposals


@pytest.mark.parametrize("network", ["residual", "depthwise"])
@pytest.mark.parametrize("method", sorted(methods()))
def test_every_strategy_of_every_method_keeps_to_them(method: str, network: str) -> None:
    compressor = bind_method(method, network)
    first, *others = compressor.sites
    bounded = [
        site for site in others if any(0.3 <= kept_fraction(site, level) <= 0.9 for level in range(len(site.settings)))
    ]
    rounded = ("2",) if any(site.widths for site in compressor.sites) else ()
    constraints = Constraints(
        keep_dense=(first.name,),
        bound=tuple(f"{site.name}=0.3..0.9" for site in bounded),
        round_channels=rounded,
    )
    if not others:
        with pytest.raises(UserError, match="nothing to choose"):
            constrain_choice(compressor, constraints)
        return
    choice = constrain_choice(compressor, constraints)
    assert "left dense by keep_dense" in choice.left_dense[first.name]
    for name in STRATEGIES:
        given = halfway_problem(choice, method)
        found = [each.candidate for each in play_strategy(given, name) if each.stage == "search"]
        assert found
        for candidate in found:
            assert first.name not in candidate.allocation
            levels = compressor.levels(candidate.allocation)
            for site, level in zip(compressor.sites, levels, strict=True):
                if site in bounded:
                    assert 0.3 - 1e-6 <= kept_fraction(site, level) <= 0.9 + 1e-6, (name, site.name)
                if site.widths and rounded:
                    assert (
                        level == 0 or site.channels < 2 or round(site.channels * (1 - site.strengths[level])) % 2 == 0
                    )
            assert compressor.cost_of(candidate.allocation).flops <= given.targets[0][1].limits["flops"]
        compressor.compress(found[0].allocation)(example_input(SHAPE))


def test_what_is_left_by_hand() -> None:
    compressor = bind_method("l1", "residual")
    asked = Constraints(bound=("*=0.25..0.5",), round_channels=("4",))
    choice = constrain_choice(compressor, asked)
    for site in choice.sites:
        whole = next(each for each in compressor.sites if each.name == site.name)
        by_hand = [
            kept for kept in range(whole.channels, 0, -1) if kept % 4 == 0 and 0.25 <= kept / whole.channels <= 0.5
        ]
        assert list(site.widths) == by_hand
    levels = np.zeros((1, len(choice.sites)), dtype=np.intp)
    assert int(choice.cost(levels).flops[0]) < choice.cost.dense.flops == compressor.cost.dense.flops
    assert reachable_ranges(Budget({"flops": 0}, choice.cost), choice.sites)[0][1] == int(choice.cost(levels).flops[0])


def test_a_scan_is_shared_by_all_constraints() -> None:
    compressor = bind_method("l1", "residual")
    constraints = Constraints(keep_dense=(compressor.sites[0].name,), bound=("*=0.5..",))
    free, bound = (halfway_problem(constrain_choice(compressor, each), "l1") for each in (Constraints(), constraints))
    scans = [{each.candidate for each in play_strategy(given, "acra-sensitivity") if each.stage == "scan"}
             for given in (free, bound)]  # fmt: skip
    assert scans[1] < scans[0]


def test_units_of_the_method_itself() -> None:
    choice = constrain_choice(bind_method("kse", "residual"), Constraints(bound=("*=G:3..4",)))
    assert {setting["G"] for site in choice.sites for setting in site.settings} <= {3, 4}
    fixed = constrain_choice(bind_method("kse", "residual"), Constraints(bound=(f"{choice.sites[0].name}=G:3..3",)))
    assert all("G" in setting for setting in fixed.fixed.values())


def test_a_layer_names_its_site() -> None:
    """The second convolution of a block adds to the stream, so that leaving it dense leaves the stream dense."""
    compressor = bind_method("l1", "residual")
    stream = next(site for site in compressor.sites if len(site.owned) > 2)
    layer = next(name for name in stream.owned if name != stream.name)
    assert stream.name in constrain_choice(compressor, Constraints(keep_dense=(layer,))).left_dense


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep_dense": ("bodi.0",)}, ["'bodi.0'", "matches no site or layer", "body"]),
        ({"keep_dense": ("*",)}, ["nothing to choose"]),
        ({"keep_dense": ("stem*",), "bound": ("stem*=0.2..0.5",)}, ["'stem*'", "contradict", "0.2..0.5"]),
        ({"bound": ("*=0.2..0.4", "*=0.6..0.8")}, ["contradict"]),
        ({"bound": ("*=0.0001..0.0002",)}, ["cannot be met"]),
        ({"bound": ("*=k:3..5",)}, ["no unit of l1", "ratio"]),
        ({"bound": ("*=0.8..0.2",)}, ["between 0 and 1"]),
        ({"bound": ("*=2..3",)}, ["between 0 and 1"]),
        ({"bound": ("*",)}, ["not understood", "LOW..HIGH"]),
        ({"bound": ("*=..",)}, ["not understood"]),
        ({"bound": ("*=0.5.0.7",)}, ["not understood"]),
        ({"round_channels": ("0",)}, ["not understood"]),
        ({"round_channels": ("stem=eight",)}, ["not understood", "PATTERN=8"]),
        ({"round_channels": ("=8",)}, ["names no site"]),
        ({"keep_dense": ("",)}, ["names no site"]),
    ],
)  # fmt: skip
def test_refused_in_one_sentence(options: dict[str, tuple[str, ...]], words: list[str]) -> None:
    compressor = bind_method("l1", "residual")
    swap = compressor.sites[0].name
    options = {key: tuple(text.replace("stem*", swap) for text in texts) for key, texts in options.items()}
    with pytest.raises(UserError) as caught:
        constrain_choice(compressor, Constraints(**options))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word.replace("stem*", swap) in message


def test_nothing_to_round_where_no_channel_is_removed() -> None:
    with pytest.raises(UserError, match="kse removes no channels"):
        constrain_choice(bind_method("kse", "residual"), Constraints(round_channels=("8",)))


def test_the_first_convolution_of_kse_is_dense_anyway() -> None:
    compressor = bind_method("kse", "residual")
    idle = next(iter(compressor.skipped))
    assert len(constrain_choice(compressor, Constraints(keep_dense=(idle,))).sites) == len(compressor.sites)
    with pytest.raises(UserError, match="nothing to bind"):
        constrain_choice(compressor, Constraints(bound=(f"{idle}=0.5..",)))


def test_a_layer_names_its_sites_of_both_methods() -> None:
    compressor = bind_method("l1+kse", "plain")
    layer = "features.1.0"
    both = {f"l1:{layer}", f"kse:{layer}"}
    remaining_sites = {site.name for site in constrain_choice(compressor, Constraints(keep_dense=(layer,))).sites}
    assert {site.name for site in compressor.sites} - remaining_sites == both
    sites_of_l1 = {site.name for site in constrain_choice(compressor, Constraints(keep_dense=("l1:*",))).sites}
    assert sites_of_l1 == {f"kse:{site.name}" for site in bind_method("kse", "plain").sites}
    assert len(constrain_choice(compressor, Constraints(keep_dense=("linear",))).sites) == len(compressor.sites)


def test_they_are_read_early_and_kept_in_the_configuration() -> None:
    def search_config(**given: object) -> RunConfig:
        values = read_settings(SEARCH, {"strategy": "random", "name": "x", **given})
        return new_run_config(SEARCH, values, TaskConfig(network="small"))

    config = search_config(keep_dense=("a", "b"), round_channels=8)
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config
    assert config.constraints.option_words() == ["--keep-dense", "a", "--keep-dense", "b", "--round-channels", "8"]
    with pytest.raises(UserError, match="not understood"):
        search_config(bound="x=")


@pytest.mark.parametrize(
    ("options", "target", "named"),
    [
        ({"bound": ("*=0.5..",)}, "0.1", ["bound '*=0.5..'"]),
        ({"keep_dense": ("{big}",), "round_channels": ("2",)}, "{little}", ["keep_dense '{big}'"]),
        ({"bound": ("*=0.5..", "*=0.4..")}, "0.1", ["bound '*=0.5..' and bound '*=0.4..'"]),
        ({"bound": ("*=..0.5",)}, "0.95", ["bound '*=..0.5'"]),
        ({"bound": ("*=0.5..",)}, "0.00001", []),
    ],
)  # fmt: skip
def test_a_target_that_a_constraint_puts_out_of_reach_names_it(
    options: dict[str, tuple[str, ...]], target: str, named: list[str]
) -> None:
    compressor = bind_method("l1", "residual")
    least = [alone_dense(compressor, index) for index in range(len(compressor.sites))]
    big = compressor.sites[int(np.argmax(least))].name
    little = f"{0.9 * max(least):.4f}"  # less than can be reached while that site is dense
    options = {key: tuple(text.replace("{big}", big) for text in texts) for key, texts in options.items()}
    choice = constrain_choice(compressor, Constraints(**options))
    config = RunConfig(task=TaskConfig(network="small"), name="x")
    with pytest.raises(UserError, match="out of reach") as caught:
        budget_of(config, choice, parse_target(target.replace("{little}", little)))
    _, without, found = str(caught.value).partition("; without ")
    assert found == "".join(f"{text.replace('{big}', big)} it would be within reach" for text in named)
    assert bool(without) == bool(named)


def alone_dense(compressor: Compressor, index: int) -> float:
    """The least that can be kept of the FLOPs while one site stays dense."""
    levels = np.array([[len(site.settings) - 1 for site in compressor.sites]])
    levels[0, index] = 0
    return float(compressor.cost(levels).flops[0] / compressor.cost.dense.flops)


class Grouped(nn.Module):
    """A block as in ResNeXt: narrow, grouped, wide again, added to its input; each group must keep as much."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.reduce = nn.Conv2d(24, 32, 1, bias=False)
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=4, bias=False)
        self.bn = nn.BatchNorm2d(32)
        self.expand = nn.Conv2d(32, 24, 1)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y = self.reduce(x).relu()
        y = self.bn(self.grouped(y)).relu()
        return self.head((x + self.expand(y)).relu().mean((2, 3)))


@pytest.mark.parametrize("multiple", [2, 3, 6, 8])
def test_grouped_convolutions_keep_to_their_groups_and_to_the_rounding(multiple: int) -> None:
    """Widths that both divide by the four groups and are the multiples asked for; counted on the network itself."""
    compressor = create("l1", Grouped(), example_input(SHAPE))
    choice = constrain_choice(compressor, Constraints(round_channels=(str(multiple),)))
    touching = [site for site in choice.sites if "grouped" in site.layers]  # its inputs and its outputs
    assert len(touching) == 2
    both = math.lcm(4, multiple)
    for site in touching:
        assert set(site.widths) == {32, *range(both, 32, both)}
        for level in range(len(site.settings)):
            levels = np.array([[level if each is site else 0 for each in choice.sites]])
            small = compressor.compress(compressor.allocation(choice.full_levels(levels)[0]))
            with torch.no_grad():
                assert small(example_input(SHAPE)).shape[1] == 10
            grouped = small.get_submodule("grouped")
            assert isinstance(grouped, nn.Conv2d)
            assert {grouped.in_channels, grouped.out_channels} == {32, site.widths[level]}
            assert grouped.groups == 4
            assert int(choice.cost(levels).params[0]) == sum(parameter.numel() for parameter in small.parameters())

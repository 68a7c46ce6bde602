"""The contract of a strategy, and strategies by name.

A strategy is a generator. It yields a batch of proposals, is sent their outcomes in the same order once all are
known, and so on until it returns. What it proposes next depends on outcomes alone, never on who finished first, so
the same seed gives the same proposals whatever the number of workers.

The first proposal for a target that is no measurement of a scan is the strategy's own best guess: plans show it, and
strategies that sample begin with it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from methods.base import Allocation, CostModel, Levels, Setting, Site
from models.errors import UserError
from models.registry import Registry
from models.user.code import is_user_spec
from models.user.pinned_code import code_identity
from search.allocation.budget import Budget
from search.allocation.targets import Target
from search.candidate import Candidate, Outcome
from search.recipe import ZERO_SHOT, Recipe

Stage = Literal["scan", "rung", "search", "final"]


@dataclass(frozen=True)
class Proposal:
    """A candidate and why it is tried."""

    candidate: Candidate
    stage: Stage
    strategy: str
    target: Target | None = None
    """None for a measurement of a scan, which serves every target."""
    alone: bool = False
    """No other candidate has its limit: it is compared with none on the way, and judged at the end alone."""
    after: float = 0.0
    """Epochs of the rung whose weights it goes on from."""


Program = Generator[list[Proposal], list[Outcome], None]


@dataclass(frozen=True)
class Scan:
    """How sensitivity curves are measured."""

    levels: int = 7
    """Strengths per site, spread evenly between dense and the smallest."""
    images: int | None = 2000
    """Search images per measurement; None takes all."""


@dataclass(frozen=True)
class KnownCandidate:
    """A candidate of a problem whose outcome is in the ledger."""

    key: str
    levels: tuple[int, ...]
    flops: int
    accuracy: float
    worth: float
    """What ranks it."""


@dataclass(frozen=True)
class Problem:
    """What a strategy knows: a method's sites and costs, the targets, and how candidates are judged."""

    method: str
    options: Mapping[str, Any]
    sites: Sequence[Site]
    cost: CostModel
    targets: Sequence[tuple[Target, Budget]]
    """Each with what it comes to on this network; all reachable, all of the same measures."""
    recipe: Recipe
    seed: int = 0
    scan: Scan = Scan()
    trials: int = 8
    """Candidates per target at most; strategies that sample use them all."""
    full_sites: Sequence[Site] = ()
    """The sites with their full ladders, which scans measure; empty where nothing constrains them."""
    fixed: Mapping[str, Setting] = field(default_factory=dict)
    """Sites that constraints leave a single setting, unless it is dense."""
    constrained: bool = False
    known_candidates: Sequence[KnownCandidate] = ()
    """Known candidates that strategies that sample begin with, the best first."""
    lenders: Sequence[str] = ()
    """Strategies of the same search whose first points they begin with."""

    @property
    def scanned_sites(self) -> Sequence[Site]:
        """What a scan measures: full ladders, so that scans under other constraints know its measurements."""
        return self.full_sites or self.sites

    def candidate(self, levels: Levels) -> Candidate:
        """The candidate that gives site i its setting number `levels[i]`, under the search recipe."""
        return self._make_candidate(self._settings_at(levels), recipe=self.recipe, images=None)

    def levels_of(self, candidate: Candidate) -> Levels | None:
        """The levels for which this problem proposes that very candidate; None if there are none."""
        pairs = [(site, candidate.allocation.get(site.name)) for site in self.sites]
        try:
            levels = np.array([0 if own is None else site.level_of(own) for site, own in pairs], dtype=np.intp)
        except ValueError:  # a setting of other sites or options
            return None
        return levels if self.candidate(levels) == candidate else None

    def scan_candidate(self, index: int = 0, level: int = 0) -> Candidate:
        """For a scan: the site `scanned[index]` at that level, every other one dense; not trained."""
        site = self.scanned_sites[index]
        recipe = ZERO_SHOT.model_copy(update={"recalibration_images": self.recipe.recalibration_images})
        alone = {site.name: site.settings[level]} if level else {}
        return self._make_candidate(alone, recipe=recipe, images=self.scan.images or 10**9)

    def _settings_at(self, levels: Levels) -> dict[str, Setting]:
        """What is not dense."""
        chosen = zip(self.sites, self.scanned_sites, levels, strict=True)
        own = {site.name: site.settings[int(level)] for site, whole, level in chosen
               if site.settings[int(level)] != whole.settings[0]}  # fmt: skip
        return {**self.fixed, **own}

    def _make_candidate(self, settings: Mapping[str, Setting], **changes: Any) -> Candidate:
        return Candidate(
            method=self.method,
            options=dict(self.options),
            allocation=Allocation(settings),
            seed=self.seed,
            **changes,
        )


@dataclass(frozen=True)
class StrategyInfo:
    """What a strategy is and needs."""

    name: str
    summary: str
    source: str
    needs_data: bool | None = True
    """Whether it starts from a sensitivity scan; None where nobody has said so."""
    samples: bool = False
    """Whether it tries `trials` candidates per target, by chance in part, instead of what its curves say."""
    candidates: int = 1
    """Candidates per target, at most `trials`, for one that does not sample."""


Propose = Callable[[Problem], Program]
StrategyRecord = tuple[StrategyInfo, Propose]


def _read_record(name: str, loaded: Any) -> StrategyRecord:
    """The record of a generator function in a user's file or an installed package."""
    if not callable(loaded) or isinstance(loaded, type):
        raise UserError(f"strategy {name} is no strategy: it must be a generator function that takes a Problem")
    info = getattr(loaded, "info", None)
    if not isinstance(info, StrategyInfo):  # not decorated
        summary = (inspect.getdoc(loaded) or "").partition("\n")[0]
        info = StrategyInfo(name, summary, "a user's own", needs_data=None)
    return replace(info, name=name), partial(_propose_as, name, loaded)


def _propose_as(name: str, propose: Propose, problem: Problem) -> Program:
    """The strategy's proposals under the name that the run knows it by, whatever it calls itself."""
    program = propose(problem)
    try:
        proposals = next(program)
        while True:
            outcomes = yield [replace(proposal, strategy=name) for proposal in proposals]
            proposals = program.send(outcomes)
    except StopIteration:
        return


_STRATEGIES: Registry[StrategyRecord] = Registry(
    "strategy", package="search.strategies", group="ratio_search.strategies", read_record=_read_record
)


def register(info: StrategyInfo) -> Callable[[Propose], Propose]:
    """Make a strategy known under its name, which can be taken only once."""

    def add_strategy(propose: Propose) -> Propose:
        _STRATEGIES.add(info.name, (info, propose))
        propose.info = info  # type: ignore[attr-defined]
        return propose

    return add_strategy


def strategy_infos() -> dict[str, StrategyInfo]:
    """Every strategy that goes by a name."""
    return {name: info for name, (info, _) in _STRATEGIES.records().items()}


def find_strategy(name: str) -> StrategyRecord:
    """One strategy; UserError with the closest names if there is none."""
    return _STRATEGIES.get(name)


def identify_strategy(name: str) -> tuple[str, dict[str, str]]:
    """What configurations and outcomes call a strategy, and where it is if it lies in a user's file."""
    pinned = _STRATEGIES.pin(name)
    identity = code_identity(pinned)
    find_strategy(identity)
    return identity, {identity: pinned} if is_user_spec(pinned) else {}


def locate_strategies(files: Mapping[str, str]) -> None:
    """Remember where a user's strategies are: identity -> pinned name, as from `identify_strategy`."""
    for pinned in files.values():
        _STRATEGIES.locate(pinned)

"""`Problem`: a method's sites and costs, the targets and the recipe, as a strategy sees them; it makes the candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from methods.base import Allocation, CostModel, Levels, Setting, Site
from search.allocation.budget import Budget
from search.allocation.targets import Target
from search.candidate import Candidate
from search.recipe import ZERO_SHOT, Recipe


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

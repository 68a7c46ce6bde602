"""`Problem`: sites, costs, targets and recipe as a strategy sees them, and the candidates that it can propose."""

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
    images: int = 2000
    """Search images per measurement."""


@dataclass(frozen=True)
class KnownCandidate:
    """A candidate of the problem with an outcome in the ledger."""

    key: str
    levels: tuple[int, ...]
    flops: int
    score: float
    worth: float
    """The value that it is ranked by (`Outcome.worth`)."""


@dataclass(frozen=True)
class Problem:
    """A method on a network, the targets, and how candidates are judged."""

    method: str
    options: Mapping[str, Any]
    sites: Sequence[Site]
    cost: CostModel
    targets: Sequence[tuple[Target, Budget]]
    """Each with its budget on this network; all can be reached, all bound the same measures."""
    recipe: Recipe
    seed: int = 0
    scan: Scan = Scan()
    trials: int = 8
    """The most candidates per target; strategies that sample use all of them."""
    full_sites: Sequence[Site] = ()
    """The sites with their full ladders; empty without constraints."""
    fixed: Mapping[str, Setting] = field(default_factory=dict)
    """Sites with a single setting left by constraints, unless that setting is dense."""
    constrained: bool = False
    known_candidates: Sequence[KnownCandidate] = ()
    """The candidates that strategies that sample begin with, the best first."""
    lenders: Sequence[str] = ()
    """Strategies of the same search whose first proposals strategies that sample begin with."""

    @property
    def predicts_damages(self) -> bool:
        """Whether the method predicts the damage of every setting."""
        return all(site.damages for site in self.sites)

    @property
    def families(self) -> list[str]:
        """The methods of a composition, in the order of their sites; a single one otherwise."""
        return list(dict.fromkeys(site.family for site in self.sites))

    @property
    def scanned_sites(self) -> Sequence[Site]:
        """The sites with full ladders, so that a scan under other constraints finds its measurements in the ledger."""
        return self.full_sites or self.sites

    def candidate(self, levels: Levels) -> Candidate:
        """The candidate that gives site i its setting number `levels[i]`, under the search recipe."""
        return self._make_candidate(self._settings_at(levels), recipe=self.recipe, images=None)

    def levels_of(self, candidate: Candidate) -> Levels | None:
        """The levels at which this problem proposes that very candidate; None if there are none."""
        settings = [candidate.allocation.get(site.name) for site in self.sites]
        try:
            levels = np.array(
                [
                    0 if setting is None else site.level_of(setting)
                    for site, setting in zip(self.sites, settings, strict=True)
                ],
                dtype=np.intp,
            )
        except ValueError:  # the setting is none of this site's: the candidate has other constraints or options
            return None
        return levels if self.candidate(levels) == candidate else None

    def scan_candidate(self, index: int = 0, level: int = 0) -> Candidate:
        """For a scan: the site `scanned[index]` at that level, every other one dense; not trained."""
        site = self.scanned_sites[index]
        return self._untrained_candidate({site.name: site.settings[level]} if level else {})

    def untrained_candidate(self, levels: Levels) -> Candidate:
        """The candidate that gives site i its setting number `levels[i]`, judged like a measurement of a scan."""
        return self._untrained_candidate(self._settings_at(levels))

    def _untrained_candidate(self, settings: Mapping[str, Setting]) -> Candidate:
        recipe = ZERO_SHOT.model_copy(update={"recalibration_images": self.recipe.recalibration_images})
        return self._make_candidate(settings, recipe=recipe, images=self.scan.images)

    def _settings_at(self, levels: Levels) -> dict[str, Setting]:
        """The settings that are not dense, of the sites without a choice included."""
        settings = dict(self.fixed)
        for site, full_site, level in zip(self.sites, self.scanned_sites, levels, strict=True):
            if site.settings[level] != full_site.settings[0]:  # a constraint may leave no dense setting
                settings[site.name] = site.settings[level]
        return settings

    def _make_candidate(self, settings: Mapping[str, Setting], **changes: Any) -> Candidate:
        return Candidate(
            method=self.method,
            options=dict(self.options),
            allocation=Allocation(settings),
            seed=self.seed,
            **changes,
        )

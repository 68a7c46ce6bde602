"""Damages that methods predict in closed form, in the place of a scan.

Of the two methods of a composition they are brought to one scale first. Predictions take the errors at different
positions of an image as independent; those of a removed channel are alike all over the image and add up, those of a low
rank are not. On ResNet-20, channels of `obs` moved the outputs 20 to 32 times as much as predicted, ranks of `tucker`
2.5 to 4 times (kept 0.5 to 0.87). So each method's sites are compressed alone, once, and its predictions multiplied by
what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from methods.base import Levels, Site
from models.errors import UserError
from search.allocation.allocate import Ladders
from search.candidate import Outcome
from search.strategies.contract import Proposal
from search.strategies.problem import Problem
from search.strategies.sensitivity import Curve, damage_of

_STRENGTH = 0.25  # of the sites of one method, all alike: a quarter of the FLOPs


def predicted_curves(sites: Sequence[Site]) -> list[Curve]:
    """Curves of the damages that a method predicts, which stand for drops of the score as well."""
    curves = []
    for site in sites:
        strengths, levels = np.unique(site.strengths, return_index=True)
        last = np.append(levels[1:], len(site.strengths)) - 1  # of settings that are equally strong, the last
        damages = np.maximum.accumulate(np.array(site.damages)[last])
        curves.append(Curve(strengths, damages, damages))
    return curves


def family_proposals(problem: Problem, strategy: str) -> list[Proposal]:
    """The network with all sites dense, then with the sites of each family at one strength, the others dense."""
    candidates = [problem.untrained_candidate(levels) for levels in _family_levels(problem)]
    return [Proposal(candidate, "scan", strategy) for candidate in candidates]


def scale_predictions(problem: Problem, outcomes: Sequence[Outcome]) -> Problem:
    """The problem with each family's damages in the measured scale; `outcomes` are those of `family_proposals`."""
    dense, *measured = outcomes
    if dense.score is None:
        raise UserError(f"the dense network could not be judged: {dense.reason}")
    factors: dict[str, float | None] = {}
    for family, levels, outcome in zip(problem.families, _family_levels(problem)[1:], measured, strict=True):
        predicted = sum(site.damages[level] for site, level in zip(problem.sites, levels, strict=True))
        drift = None if outcome.score is None else damage_of(outcome, dense)[1]
        factors[family] = drift / predicted if drift is not None and drift > 0 and predicted > 0 else None
    known = [factor for factor in factors.values() if factor is not None]
    # A family whose network could not be judged, or that nothing was seen of, is given the worst factor.
    worst = max(known, default=1.0)
    sites = [
        replace(site, damages=tuple((factors[site.family] or worst) * damage for damage in site.damages))
        for site in problem.sites
    ]
    return replace(problem, sites=sites)


def _family_levels(problem: Problem) -> list[Levels]:
    ladders = Ladders(problem.sites)
    alike = ladders.levels_at(np.full((1, len(problem.sites)), _STRENGTH))[0]
    families = np.array([site.family for site in problem.sites])
    return [np.zeros_like(alike), *(np.where(families == family, alike, 0) for family in problem.families)]

"""Strategies that sample: at random, by TPE, by NSGA-II. They search the *shape* of an allocation, one number a site.

Every shape is projected onto its target by bisection, so no trial is spent on an infeasible point. Trials are asked
for in batches of constant size and told in the order asked: proposals depend on outcomes and seed alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState

from methods.base import Levels, as_key
from search.allocation.allocate import Floats, Shape, project_shape
from search.allocation.budget import Budget
from search.allocation.targets import Target
from search.candidate import Outcome
from search.strategies.contract import Program, Proposal, StrategyInfo
from search.strategies.lending import REACH, lent_points
from search.strategies.problem import Problem
from search.strategies.registry import register

BATCH = 4  # trials asked for at once, and the population of a generation: enough for four workers
_STEEP = 4.0  # ratio of exponents between a site of average and one of extreme softness or hardness
_SNAP = 1 / 3  # how near, in steps between targets, a free target is taken to be one that was asked for
_RUNG_STEPS = 1000  # parts of a recipe's epochs in which a sampler is told how far a candidate came
_EXACT = "levels"  # what a trial stands for that its parameters only come near
_LIMIT = ".limit"  # a parameter beside the sites' names, none of which begins with a dot


def power_shape(hardness: Floats) -> Shape:
    """Strength = scale^(4^−h): 0 is uniform, 1 hardens a site, −1 spares it; dense at 0 and smallest at 1, always.

    Args:
        hardness: (n_sites,), −1 to 1.
    """
    exponents = _STEEP**-hardness
    return lambda scales: scales[:, None] ** exponents


def hardness_of(strengths: Floats) -> Floats:
    """The hardness whose shape comes nearest to an allocation: the inverse of `power_shape` where it has one.

    −log strength = −log scale · 4^−h. The scale is free: it puts the middle of the sites at h = 0.

    Args:
        strengths: (n_sites,), 0 to 1; dense sites are spared and smallest ones hardened as far as it goes.
    """
    with np.errstate(divide="ignore"):
        logs = np.log(-np.log(np.clip(strengths, 0, 1)))
    finite = logs[np.isfinite(logs)]
    middle = (finite.min() + finite.max()) / 2 if len(finite) else 0.0
    return np.clip((middle - logs) / math.log(_STEEP), -1, 1)


@register(
    StrategyInfo(
        "random",
        "shapes at random, each projected onto the target: the control",
        "control",
        needs_data=False,
        samples=True,
    )
)
def random_shapes(problem: Problem) -> Program:
    """All at once; the same for a target whatever other targets there are.

    Each trial has a spread of its own, so that both near-uniform and extreme allocations are tried.
    """
    proposals = []
    for target, budget in problem.targets:
        rng = np.random.default_rng([problem.seed, *budget.limits.values()])
        for _ in range(problem.trials):
            hardness = rng.uniform(0.25, 1) * rng.uniform(-1, 1, len(problem.sites))
            proposals.append(_propose_shape(problem, "random", hardness, budget, target))
    yield proposals


@register(
    StrategyInfo(
        "tpe",
        "shapes by a tree-structured Parzen estimator, starting from the uniform one",
        "Bergstra et al., NeurIPS 2011; Optuna",
        needs_data=False,
        samples=True,
    )
)
def tpe_shapes(problem: Problem) -> Program:
    """One study a target, all of them a batch at a time."""
    points = yield from lent_points(problem, "tpe")
    targets = range(len(problem.targets))
    studies = [ShapeStudy(problem, "tpe", _tpe_sampler(problem), [index], points, prunes=True) for index in targets]
    yield from _run_studies(studies)


@register(
    StrategyInfo(
        "nsga2",
        "shapes by NSGA-II; with several targets one population for the whole front, limits between them included",
        "Deb et al., 2002; Optuna",
        needs_data=False,
        samples=True,
    )
)
def nsga2_front(problem: Problem) -> Program:
    """One study for all targets: cost against what a candidate is worth where there are several, that alone for one."""
    sampler = NSGAIISampler(population_size=BATCH, seed=problem.seed)
    targets = sorted(range(len(problem.targets)), key=lambda index: [*problem.targets[index][1].limits.values()])
    points = yield from lent_points(problem, "nsga2")
    yield from _run_studies([ShapeStudy(problem, "nsga2", sampler, targets, points)])


def _tpe_sampler(problem: Problem) -> BaseSampler:
    start = max(2, min(10, problem.trials // 3))  # random trials before the estimator takes over
    return TPESampler(seed=problem.seed, n_startup_trials=start, multivariate=True, constant_liar=True)


def _run_studies(studies: Sequence[ShapeStudy]) -> Program:
    """Ask all studies for a batch, have it judged, tell; until each has had its trials."""
    while any(study.trials_left for study in studies):
        batches = [study.ask_batch(min(BATCH, study.trials_left)) for study in studies]
        outcomes = yield [proposal for batch in batches for proposal in batch]
        for study, batch in zip(studies, batches, strict=True):
            study.tell_outcomes(outcomes[: len(batch)])
            outcomes = outcomes[len(batch) :]


class ShapeStudy:
    """An Optuna study in memory over shapes and, where there are several targets, over limits between them."""

    def __init__(
        self,
        problem: Problem,
        name: str,
        sampler: BaseSampler,
        targets: Sequence[int],
        points: Sequence[Proposal],
        *,
        prunes: bool = False,
    ) -> None:
        """
        Args:
            targets: indices into the problem's targets, by rising limit.
            points: to begin with, besides the uniform ones and what is known.
            prunes: the sampler knows that a candidate stopped at a rung is worse than those that went further.
        """
        self._prunes = prunes
        self._problem, self._name = problem, name
        self._targets = [problem.targets[index] for index in targets]
        self._space: dict[str, BaseDistribution] = {site.name: FloatDistribution(-1, 1) for site in problem.sites}
        self._several = len(self._targets) > 1
        if self._several:
            self._space[_LIMIT] = FloatDistribution(0, len(self._targets) - 1)
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # Optuna announces every study
        directions = [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE][not self._several :]
        self._study = optuna.create_study(sampler=sampler, directions=directions)
        optuna.logging.set_verbosity(verbosity)
        self.trials_left = problem.trials * len(self._targets)
        """Trials to ask for."""
        self._enqueue_first_trials(points)
        self._open: list[tuple[Trial, Proposal]] = []

    def _enqueue_first_trials(self, points: Sequence[Proposal]) -> None:
        """Queue uniform points, those of other strategies, and known ones, which cost nothing and come on top."""
        sites = self._problem.sites
        queued = set[tuple[int, ...]]()
        for place, (_, budget) in enumerate(self._targets):
            queued.add(as_key(project_shape(power_shape(np.zeros(len(sites))), sites, budget).levels))
            self._study.enqueue_trial(self._trial_parameters(np.zeros(len(sites)), float(place)))
        places = {target: place for place, (target, _) in enumerate(self._targets)}
        for point in points:
            levels = self._problem.levels_of(point.candidate)
            if point.target in places and levels is not None and as_key(levels) not in queued:
                queued.add(as_key(levels))
                self._enqueue_levels(levels, float(places[point.target]))
        for known in self._problem.known_candidates:
            between = self._place_between_targets(np.array(known.levels, dtype=np.intp))
            if between is not None and known.levels not in queued:
                queued.add(known.levels)
                self._enqueue_levels(np.array(known.levels, dtype=np.intp), between)
                self.trials_left += 1

    def _trial_parameters(self, hardness: Floats, place: float) -> dict[str, float]:
        """Parameters of a trial."""
        shape = dict(zip((site.name for site in self._problem.sites), map(float, hardness), strict=True))
        return shape | ({_LIMIT: place} if self._several else {})

    def _enqueue_levels(self, levels: Levels, place: float) -> None:
        """A trial of that very allocation, at the parameters whose shape comes near it."""
        strengths = np.array([site.strengths[level] for site, level in zip(self._problem.sites, levels, strict=True)])
        exact = {_EXACT: [int(level) for level in levels]}
        self._study.enqueue_trial(self._trial_parameters(hardness_of(strengths), place), user_attrs=exact)

    def _place_between_targets(self, levels: Levels) -> float | None:
        """Where between targets an allocation lies; None if that is above all, or too far below the lowest."""
        budgets = [budget for _, budget in self._targets]
        if budgets[-1].largest_excess(levels[None])[0] > 0 or budgets[0].largest_excess(levels[None])[0] < -REACH:
            return None
        limits = [next(iter(budget.limits.values())) for budget in budgets]
        return float(np.interp(math.log(budgets[0].figures_of(levels[None])[0, 0]), np.log(limits), range(len(limits))))

    def ask_batch(self, count: int) -> list[Proposal]:
        self.trials_left -= count
        trials = [self._study.ask(self._space) for _ in range(count)]
        self._open = [(trial, self._propose_trial(trial)) for trial in trials]
        return [proposal for _, proposal in self._open]

    def _propose_trial(self, trial: Trial) -> Proposal:
        hardness = np.array([trial.params[site.name] for site in self._problem.sites])
        budget, target = self._budget_at(trial.params.get(_LIMIT, 0.0))
        if (exact := trial.user_attrs.get(_EXACT)) is not None:
            return self._propose_levels(np.array(exact, dtype=np.intp))
        between = budget.limits not in [each.limits for _, each in self._targets]
        return _propose_shape(self._problem, self._name, hardness, budget, target, alone=between)

    def _propose_levels(self, levels: Levels) -> Proposal:
        """What is known, or paid for by another strategy: judged at the end alone."""
        tightest = next(target for target, budget in self._targets if budget.largest_excess(levels[None])[0] <= 0)
        return Proposal(self._problem.candidate(levels), "search", self._name, tightest, alone=True)

    def _budget_at(self, place: float) -> tuple[Budget, Target]:
        """What is allowed at a place between targets, and the tightest target asked for that this keeps to."""
        near = round(place)
        if abs(place - near) <= _SNAP:
            target, budget = self._targets[near]
            return budget, target
        target, above = self._targets[math.ceil(place)]
        below = self._targets[int(place)][1]
        limits = {name: int(low * (above.limits[name] / low) ** (place % 1)) for name, low in below.limits.items()}
        return replace(above, limits=limits), target

    def tell_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Outcomes of the last batch, in its order; one that could not be judged is told as failed."""
        for (trial, proposal), outcome in zip(self._open, outcomes, strict=True):
            if outcome.worth is None:
                self._study.tell(trial, state=TrialState.FAIL)
            elif self._prunes and outcome.epochs < self._problem.recipe.epochs:
                trial.report(outcome.worth, round(_RUNG_STEPS * outcome.epochs / self._problem.recipe.epochs))
                self._study.tell(trial, state=TrialState.PRUNED)
            else:  # NSGA-II breeds from finished trials alone; one that was stopped lies below its rivals as it is
                values = [self._relative_cost(proposal), outcome.worth] if self._several else [outcome.worth]
                self._study.tell(trial, values)

    def _relative_cost(self, proposal: Proposal) -> float:
        """How far above the tightest target, in whichever of its measures binds."""
        levels = self._problem.levels_of(proposal.candidate)
        assert levels is not None
        return float(self._targets[0][1].largest_excess(levels[None])[0])


def _propose_shape(
    problem: Problem, name: str, hardness: Floats, budget: Budget, target: Target, *, alone: bool = False
) -> Proposal:
    levels: Levels = project_shape(power_shape(hardness), problem.sites, budget).levels
    return Proposal(problem.candidate(levels), "search", name, target, alone=alone)

"""Strategies that sample: at random, by TPE, by NSGA-II. They search the *shape* of an allocation, one number per site.

Every shape is projected onto its target, so that no trial is spent on an infeasible point. Batches have a constant
size, and their outcomes are told in the order of the batch: proposals depend on outcomes and seed alone.
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
from search.strategies.contract import Program, Proposal
from search.strategies.lending import REACH, lent_points
from search.strategies.problem import Problem

BATCH = 4  # trials asked for at once, and the population of a generation: enough for four workers
_STEEP = 4.0  # ratio of the exponents of a site of hardness 1 and one of hardness 0
_SNAP = 1 / 3  # a limit between targets becomes that of a target nearer than this, in steps between targets
_RUNG_STEPS = 1000  # Optuna's steps are integers: the epochs of a rung as thousandths of the recipe's
_EXACT = "levels"  # a trial's attribute: the allocation to judge, which the shape of its parameters only comes near
_LIMIT = ".limit"  # the parameter of the limit; no site's name begins with a dot


def power_shape(hardness: Floats) -> Shape:
    """Strength(s) = s^(4^−h): dense at scale 0 and smallest at 1 for any hardness h.

    With h = 0 for all sites it is uniform; h = 1 hardens a site, h = −1 spares it.

    Args:
        hardness: (n_sites,), −1 to 1.
    """
    exponents = _STEEP**-hardness
    return lambda scales: scales[:, None] ** exponents


def hardness_of(strengths: Floats) -> Floats:
    """The hardness whose shape comes nearest to an allocation: the inverse of `power_shape` where it has one.

        h = (log(−log s) − log(−log strength)) / log 4

    The scale s is free: it puts the middle of the sites at h = 0.

    Args:
        strengths: (n_sites,), 0 to 1. A dense site gets h = −1, one at its smallest setting h = 1.
    """
    with np.errstate(divide="ignore"):
        logs = np.log(-np.log(np.clip(strengths, 0, 1)))
    finite = logs[np.isfinite(logs)]
    middle = (finite.min() + finite.max()) / 2 if len(finite) else 0.0
    return np.clip((middle - logs) / math.log(_STEEP), -1, 1)


def random_shapes(problem: Problem) -> Program:
    """All trials in one batch; those of a target do not depend on the other targets.

    The spread of hardness is drawn per trial, so that near-uniform and extreme allocations are both tried.
    """
    proposals = []
    for target, budget in problem.targets:
        rng = np.random.default_rng([problem.seed, *budget.limits.values()])
        for _ in range(problem.trials):
            hardness = rng.uniform(0.25, 1) * rng.uniform(-1, 1, len(problem.sites))
            proposals.append(_propose_shape(problem, "random", hardness, budget, target))
    yield proposals


def tpe_shapes(problem: Problem) -> Program:
    """One study per target; a batch holds the trials of all studies."""
    points = yield from lent_points(problem, "tpe")
    random_trials = max(2, min(10, problem.trials // 3))  # before the estimator takes over
    studies = []
    for index in range(len(problem.targets)):
        # The constant liar keeps the trials of a batch, which are asked for before any outcome, from being the same.
        sampler = TPESampler(seed=problem.seed, n_startup_trials=random_trials, multivariate=True, constant_liar=True)
        studies.append(ShapeStudy(problem, "tpe", sampler, [index], points, prunes=True))
    yield from _run_studies(studies)


def nsga2_front(problem: Problem) -> Program:
    """One study for all targets: it minimises cost and maximises worth; with one target it maximises worth alone."""
    sampler = NSGAIISampler(population_size=BATCH, seed=problem.seed)
    targets = sorted(range(len(problem.targets)), key=lambda index: [*problem.targets[index][1].limits.values()])
    points = yield from lent_points(problem, "nsga2")
    yield from _run_studies([ShapeStudy(problem, "nsga2", sampler, targets, points)])


def _run_studies(studies: Sequence[ShapeStudy]) -> Program:
    """Ask all studies for a batch, have it judged, tell; until each has had its trials."""
    while any(study.trials_left for study in studies):
        batches = [study.ask_batch(min(BATCH, study.trials_left)) for study in studies]
        outcomes = yield [proposal for batch in batches for proposal in batch]
        for study, batch in zip(studies, batches, strict=True):
            study.tell_outcomes(outcomes[: len(batch)])
            outcomes = outcomes[len(batch) :]


class ShapeStudy:
    """An Optuna study in memory over shapes and, with several targets, over limits between the targets."""

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
            points: first proposals of other strategies.
            prunes: the sampler makes use of candidates that were stopped at a rung (TPE does, NSGA-II does not).
        """
        self._prunes = prunes
        self._problem, self._name = problem, name
        self._targets = [problem.targets[index] for index in targets]
        self._space: dict[str, BaseDistribution] = {site.name: FloatDistribution(-1, 1) for site in problem.sites}
        self._several = len(self._targets) > 1
        if self._several:
            self._space[_LIMIT] = FloatDistribution(0, len(self._targets) - 1)
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # Optuna announces every study on the terminal
        worth, cost = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
        directions = [cost, worth] if self._several else [worth]
        self._study = optuna.create_study(sampler=sampler, directions=directions)
        optuna.logging.set_verbosity(verbosity)
        self.trials_left = problem.trials * len(self._targets)
        """Trials that are still to be asked for."""
        self._enqueue_first_trials(points)
        self._open: list[tuple[Trial, Proposal]] = []

    def _enqueue_first_trials(self, points: Sequence[Proposal]) -> None:
        """Enqueue uniform allocations, first proposals of other strategies, and known candidates.

        Known candidates cost nothing, so they do not count against the trials.
        """
        sites = self._problem.sites
        queued = set[tuple[int, ...]]()  # a second trial of the same allocation would tell the sampler nothing
        for place, (_, budget) in enumerate(self._targets):
            queued.add(as_key(project_shape(power_shape(np.zeros(len(sites))), sites, budget).levels))
            self._study.enqueue_trial(self._trial_parameters(np.zeros(len(sites)), float(place)))
        places = {target: place for place, (target, _) in enumerate(self._targets)}
        for point in points:
            levels = self._problem.levels_of(point.candidate)
            if point.target in places and levels is not None and as_key(levels) not in queued:
                queued.add(as_key(levels))
                self._enqueue_levels(levels, float(places[point.target]))
        for candidate in self._problem.known_candidates:
            levels = np.array(candidate.levels, dtype=np.intp)
            between = self._place_between_targets(levels)
            if between is not None and candidate.levels not in queued:
                queued.add(candidate.levels)
                self._enqueue_levels(levels, between)
                self.trials_left += 1

    def _trial_parameters(self, hardness: Floats, place: float) -> dict[str, float]:
        """A trial's parameters: the hardness of every site, and its place between the targets if there are several."""
        shape = dict(zip((site.name for site in self._problem.sites), map(float, hardness), strict=True))
        return shape | ({_LIMIT: place} if self._several else {})

    def _enqueue_levels(self, levels: Levels, place: float) -> None:
        """Enqueue a trial of that very allocation, at the parameters whose shape comes nearest to it."""
        strengths = np.array([site.strengths[level] for site, level in zip(self._problem.sites, levels, strict=True)])
        exact = {_EXACT: [int(level) for level in levels]}
        self._study.enqueue_trial(self._trial_parameters(hardness_of(strengths), place), user_attrs=exact)

    def _place_between_targets(self, levels: Levels) -> float | None:
        """Where between the targets an allocation lies, 0 to their number − 1, linear in the logarithm of the limit.

        None if it exceeds all limits, or lies more than `REACH` below the lowest.
        """
        budgets = [budget for _, budget in self._targets]
        if budgets[-1].largest_excess(levels[None])[0] > 0 or budgets[0].largest_excess(levels[None])[0] < -REACH:
            return None
        limits = [next(iter(budget.limits.values())) for budget in budgets]
        return float(np.interp(math.log(budgets[0].figures_of(levels[None])[0, 0]), np.log(limits), range(len(limits))))

    def ask_batch(self, count: int) -> list[Proposal]:
        """The proposals of the next trials."""
        self.trials_left -= count
        trials = [self._study.ask(self._space) for _ in range(count)]
        self._open = [(trial, self._propose_trial(trial)) for trial in trials]
        return [proposal for _, proposal in self._open]

    def _propose_trial(self, trial: Trial) -> Proposal:
        hardness = np.array([trial.params[site.name] for site in self._problem.sites])
        budget, target = self._budget_at(trial.params.get(_LIMIT, 0.0))
        if (exact := trial.user_attrs.get(_EXACT)) is not None:
            return self._propose_levels(np.array(exact, dtype=np.intp))
        # Rungs compare the candidates of one limit; a limit between targets belongs to this candidate alone.
        is_between = all(budget.limits != target_budget.limits for _, target_budget in self._targets)
        return _propose_shape(self._problem, self._name, hardness, budget, target, has_no_rival=is_between)

    def _propose_levels(self, levels: Levels) -> Proposal:
        """A known allocation, or one that another strategy proposes too: judged at the end only, not at rungs."""
        tightest = next(target for target, budget in self._targets if budget.largest_excess(levels[None])[0] <= 0)
        return Proposal(self._problem.candidate(levels), "search", self._name, tightest, alone=True)

    def _budget_at(self, place: float) -> tuple[Budget, Target]:
        """The budget at a place between the targets, and the tightest of the targets that it keeps to.

        limit = low · (high / low)^fraction, between the limits of the targets below and above.
        """
        near = round(place)
        if abs(place - near) <= _SNAP:
            target, budget = self._targets[near]
            return budget, target
        target, above = self._targets[math.ceil(place)]
        below = self._targets[int(place)][1]
        limits = {name: int(low * (above.limits[name] / low) ** (place % 1)) for name, low in below.limits.items()}
        return replace(above, limits=limits), target

    def tell_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Tell the sampler the outcomes of the last batch, in its order."""
        for (trial, proposal), outcome in zip(self._open, outcomes, strict=True):
            if outcome.worth is None:
                self._study.tell(trial, state=TrialState.FAIL)
            elif self._prunes and outcome.epochs < self._problem.recipe.epochs:
                trial.report(outcome.worth, round(_RUNG_STEPS * outcome.epochs / self._problem.recipe.epochs))
                self._study.tell(trial, state=TrialState.PRUNED)
            else:  # NSGA-II breeds only from finished trials, so a candidate stopped at a rung counts as finished
                values = [self._relative_cost(proposal), outcome.worth] if self._several else [outcome.worth]
                self._study.tell(trial, values)

    def _relative_cost(self, proposal: Proposal) -> float:
        """The excess over the tightest target, a share of the dense figure of the measure that binds."""
        levels = self._problem.levels_of(proposal.candidate)
        assert levels is not None
        return float(self._targets[0][1].largest_excess(levels[None])[0])


def _propose_shape(
    problem: Problem, name: str, hardness: Floats, budget: Budget, target: Target, *, has_no_rival: bool = False
) -> Proposal:
    levels: Levels = project_shape(power_shape(hardness), problem.sites, budget).levels
    return Proposal(problem.candidate(levels), "search", name, target, alone=has_no_rival)

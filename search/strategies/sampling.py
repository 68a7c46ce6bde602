"""Strategies that sample: at random, by TPE, by NSGA-II. They search the *shape* of an allocation, one number a site.

Every shape is projected onto its target by bisection, so no trial is spent on an infeasible point. Trials are asked
for in batches of constant size and told in the order asked: proposals depend on outcomes and seed alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState

from methods.base import Levels
from search.allocate import Floats, Shape, project
from search.candidate import Outcome
from search.strategy import Problem, Program, Proposal, StrategyInfo, register

BATCH = 4  # trials asked for at once, and the population of a generation: enough for four workers
_STEEP = 4.0  # ratio of exponents between a site of average and one of extreme softness or hardness
_SNAP = 1 / 3  # how near, in steps between targets, a free target is taken to be one that was asked for
_RUNG_STEPS = 1000  # parts of a recipe's epochs in which a sampler is told how far a candidate came
_LIMIT = "limit of FLOPs"  # a parameter beside the sites' names, none of which has blanks


def power_shape(hardness: Floats) -> Shape:
    """Strength = scale^(4^−h): 0 is uniform, 1 hardens a site, −1 spares it; dense at 0 and smallest at 1, always.

    Args:
        hardness: (n_sites,), −1 to 1.
    """
    exponents = _STEEP**-hardness
    return lambda scales: scales[:, None] ** exponents


@register(
    StrategyInfo(
        "random",
        "shapes at random, each projected onto the target: the control",
        "control",
        needs_data=False,
        samples=True,
    )
)
def random(problem: Problem) -> Program:
    """All at once; the same for a target whatever other targets there are.

    Each trial has a spread of its own, so that both near-uniform and extreme allocations are tried.
    """
    proposals = []
    for target, limit in problem.targets:
        rng = np.random.default_rng([problem.seed, limit])
        for _ in range(problem.trials):
            hardness = rng.uniform(0.25, 1) * rng.uniform(-1, 1, len(problem.sites))
            proposals.append(_proposal(problem, "random", hardness, limit, target.asked))
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
def tpe(problem: Problem) -> Program:
    """One study a target, all of them a batch at a time."""
    studies = [
        _Study(problem, "tpe", _tpe_sampler(problem), [index], prunes=True) for index in range(len(problem.targets))
    ]
    yield from _search(studies, problem.trials)


@register(
    StrategyInfo(
        "nsga2",
        "shapes by NSGA-II; with several targets one population for the whole front, limits between them included",
        "Deb et al., 2002; Optuna",
        needs_data=False,
        samples=True,
    )
)
def nsga2(problem: Problem) -> Program:
    """One study for all targets: FLOPs against accuracy where there are several, accuracy alone for one."""
    sampler = NSGAIISampler(population_size=BATCH, seed=problem.seed)
    targets = sorted(range(len(problem.targets)), key=lambda index: problem.targets[index][1])
    study = _Study(problem, "nsga2", sampler, targets)
    yield from _search([study], problem.trials * len(targets))


def _tpe_sampler(problem: Problem) -> BaseSampler:
    start = max(2, min(10, problem.trials // 3))  # random trials before the estimator takes over
    return TPESampler(seed=problem.seed, n_startup_trials=start, multivariate=True, constant_liar=True)


def _search(studies: Sequence[_Study], trials: int) -> Program:
    """Ask all studies for a batch, have it judged, tell; until each has had its trials."""
    for done in range(0, trials, BATCH):
        asked = [study.ask(min(BATCH, trials - done)) for study in studies]
        outcomes = yield [proposal for batch in asked for proposal in batch]
        for study, batch in zip(studies, asked, strict=True):
            study.tell(outcomes[: len(batch)])
            outcomes = outcomes[len(batch) :]


class _Study:
    """An Optuna study in memory over shapes and, where there are several targets, over limits between them."""

    def __init__(
        self, problem: Problem, name: str, sampler: BaseSampler, targets: Sequence[int], *, prunes: bool = False
    ) -> None:
        """
        Args:
            targets: indices into the problem's targets, by rising limit.
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
        for place in range(len(self._targets)):
            uniform: dict[str, float] = dict.fromkeys(self._space, 0.0)
            self._study.enqueue_trial(uniform | ({_LIMIT: float(place)} if self._several else {}))
        self._open: list[Trial] = []

    def ask(self, count: int) -> list[Proposal]:
        self._open = [self._study.ask(self._space) for _ in range(count)]
        return [self._propose(trial) for trial in self._open]

    def _propose(self, trial: Trial) -> Proposal:
        hardness = np.array([trial.params[site.name] for site in self._problem.sites])
        limit, asked = self._limit(trial.params.get(_LIMIT, 0.0))
        between = limit not in (each for _, each in self._targets)
        return _proposal(self._problem, self._name, hardness, limit, asked, alone=between)

    def _limit(self, place: float) -> tuple[int, str]:
        """FLOPs allowed at a place between targets, and the tightest target asked for that this keeps to."""
        near = round(place)
        if abs(place - near) <= _SNAP:
            target, limit = self._targets[near]
            return limit, target.asked
        low, high = self._targets[int(place)][1], self._targets[math.ceil(place)][1]
        return int(low * (high / low) ** (place % 1)), self._targets[math.ceil(place)][0].asked

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Outcomes of the last batch, in its order; one without accuracy is told as failed."""
        for trial, outcome in zip(self._open, outcomes, strict=True):
            if outcome.accuracy is None or outcome.flops is None:
                self._study.tell(trial, state=TrialState.FAIL)
            elif self._prunes and outcome.epochs < self._problem.recipe.epochs:
                trial.report(outcome.accuracy, round(_RUNG_STEPS * outcome.epochs / self._problem.recipe.epochs))
                self._study.tell(trial, state=TrialState.PRUNED)
            else:  # NSGA-II breeds from finished trials alone; one that was stopped lies below its rivals as it is
                values = [float(outcome.flops), outcome.accuracy] if self._several else [outcome.accuracy]
                self._study.tell(trial, values)


def _proposal(
    problem: Problem, name: str, hardness: Floats, limit: int, asked: str, *, alone: bool = False
) -> Proposal:
    levels: Levels = project(power_shape(hardness), problem.sites, problem.cost, limit).levels
    return Proposal(problem.candidate(levels), "search", name, asked, alone=alone)

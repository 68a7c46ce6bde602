"""The one order of a target's candidates, with the reason for each place; its first is the answer to the target.

Searched candidates are ordered by the task's metric on the search split. Accuracies within one standard error of the
best cannot be told apart (the one-standard-error rule, Breiman et al., 1984); these are ordered by their drift, which
is smooth where accuracy counts images. Where the dense weights have seen the search split, drift alone orders.
Finalists are ordered by their mean on the test set. Of equals the one of fewer FLOPs comes first, then the order of
names decides.

Results share a rank unless the spread of their seeds tells them apart.
Two means differ if Welch's t-test says so at the 5 % level (two-sided, unequal variances) and, where images are
counted, they lie more than one of these apart.
A rank is one more than the number of results in the same band that are better in this sense, and
never before that of a result with a better mean: wide spreads win nothing. A single seed has an unknown spread, so its
result has no rank.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from models.tasks.metric import ACCURACY, Metric
from models.wording import plural
from search.candidate import Outcome

LEVEL = 0.05  # of Welch's t-test
ROUNDING = 1e-9  # figures that differ by less are equal

T = TypeVar("T")
Name = tuple[str, ...]


@dataclass(frozen=True)
class Ranked(Generic[T]):
    """A candidate in its place."""

    candidate: T
    reason: str
    """Why it stands there, in words."""


@dataclass(frozen=True)
class Sample:
    """Figures of one row on the test set: mean and standard deviation (n − 1) over seeds."""

    mean: float
    std: float | None
    n: int
    images: int
    """That each seed was judged on."""
    flops: float | None = None
    metric: Metric = ACCURACY

    @property
    def worth(self) -> float:
        """The mean, larger being better."""
        return self.metric.worth(self.mean)


def candidate_name(strategy: str, method: str, allocation: str) -> Name:
    """What decides between candidates whose figures are equal: the same in every process, whoever finished first.

    Args:
        allocation: as JSON.
    """
    return strategy, method, allocation


def rank_searched(candidates: Sequence[T], outcomes: Sequence[Outcome], names: Sequence[Name]) -> list[Ranked[T]]:
    """The candidates that were judged, the best first.

    One that was stopped at a rung comes after all that were trained for longer.
    """
    judged = [index for index, outcome in enumerate(outcomes) if outcome.worth is not None]
    judged.sort(key=lambda index: _searched_key(outcomes[index], names[index]))
    ranking: list[Ranked[T]] = []
    for epochs, group in itertools.groupby(judged, key=lambda index: outcomes[index].epochs):
        places = [(index, outcomes[index]) for index in group]
        ordered = _rank_equally_trained(places)
        if ranking:
            ordered = [(index, f"stopped after {plural(epochs, 'epoch')}, others after more") for index, _ in ordered]
        ranking += [Ranked(candidates[index], reason) for index, reason in ordered]
    return ranking


def _searched_key(outcome: Outcome, name: Name) -> tuple[Any, ...]:
    flops = math.inf if outcome.flops is None else outcome.flops
    return -outcome.epochs, -(outcome.worth or 0.0), outcome.loss or 0.0, flops, name


def _rank_equally_trained(places: Sequence[tuple[int, Outcome]]) -> list[tuple[int, str]]:
    """Place and reason of candidates by falling worth: those that accuracy cannot tell from the first by drift."""
    best, metric = places[0][1], places[0][1].metric
    if any(outcome.merit is not None for _, outcome in places):
        seen = "images" if metric == ACCURACY else "split"
        least = f"least drift from the dense network, whose weights have seen the search {seen}"
        return [(index, least if outcome is best else "more drift than the best") for index, outcome in places]
    error, top = standard_error(best), f"{_best_word(metric)} search {metric.name}"
    gaps = {index: (best.worth or 0.0) - (outcome.worth or 0.0) for index, outcome in places}
    near = [place for place in places if gaps[place[0]] <= error + ROUNDING]
    reasons = {index: f"search {metric.name} {_gap_text(metric, gap)}" for index, gap in gaps.items()}
    reasons[places[0][0]] = top
    if len(near) == 1 or any(outcome.drift is None for _, outcome in places):
        return [(index, reasons[index]) for index, _ in places]
    # Drift is smooth where accuracy counts images, so it tells apart what accuracy within its error cannot.
    near.sort(key=lambda place: place[1].drift or 0.0)
    within = f"within one standard error ({metric.gap_text(error)}) of the {top}" if error else f"equal in the {top}"
    reasons |= {index: f"more drift than the best, {within}" for index, _ in near}
    reasons[near[0][0]] = f"least drift of the {len(near)} {within}"
    ordered = {index: None for index, _ in (*near, *places)}  # each once, the near ones first
    return [(index, reasons[index]) for index in ordered]


def standard_error(outcome: Outcome) -> float:
    """Of an accuracy, by the binomial distribution of its images; 0 of other metrics, whose spread is not known."""
    accuracy = outcome.score or 0.0
    if not outcome.metric.counted or not outcome.images:
        return 0.0
    return float((accuracy * (1 - accuracy) / outcome.images) ** 0.5)


def _best_word(metric: Metric) -> str:
    return "lowest" if metric.lower_is_better else "highest"


def _gap_text(metric: Metric, gap: float) -> str:
    """`0.52 points below the best`, of two worths."""
    return f"{metric.gap_text(gap)} {'above' if metric.lower_is_better else 'below'} the best"


def rank_tested(finalists: Sequence[T], samples: Sequence[Sample], names: Sequence[Name]) -> list[Ranked[T]]:
    """The finalists by their results on the test set, the best first."""

    def sort_key(index: int) -> tuple[float, float, Name]:
        flops = samples[index].flops
        return -samples[index].worth, math.inf if flops is None else flops, names[index]

    order = sorted(range(len(finalists)), key=sort_key)
    if not order:
        return []
    best = samples[order[0]]
    equals = sum(sample.mean == best.mean for sample in samples)
    reason = f"{_best_word(best.metric)} mean test {best.metric.name}" + (
        ", of equals the smaller" if equals > 1 else ""
    )
    ranking = [Ranked(finalists[order[0]], reason)]
    for index in order[1:]:
        gap = f"mean test {best.metric.name} {_gap_text(best.metric, best.worth - samples[index].worth)}"
        noise = ", inside the noise of the seeds" if is_indistinct(best, samples[index]) else ""
        ranking.append(Ranked(finalists[index], gap + noise))
    return ranking


def is_indistinct(first: Sample, second: Sample) -> bool:
    """Whether Welch's t-test does not tell two means apart; False where a spread is unknown."""
    return first.std is not None and second.std is not None and welch_p_value(first, second) >= LEVEL


def rank_numbers(samples: Sequence[Sample | None]) -> list[int | None]:
    """The rank of each sample among those of one band; None where there is no spread to rank by."""
    numbers: list[int | None] = [None] * len(samples)
    last = 1
    measured = [
        (index, sample) for index, sample in enumerate(samples) if sample is not None and sample.std is not None
    ]
    for index, sample in sorted(measured, key=lambda pair: -pair[1].worth):
        # Never before a result of better mean: a wide spread would else win a better rank than a narrow one.
        last = numbers[index] = max(last, 1 + sum(is_better(rival, sample) for rival in samples))
    return numbers


def is_better(first: Sample | None, second: Sample | None) -> bool:
    """Whether `first` is better than `second` beyond the noise; never if either spread is unknown."""
    if first is None or second is None or first.std is None or second.std is None:
        return False
    # One test image more or less is luck, however little the seeds spread.
    least = 1 / max(1, min(first.images, second.images)) if first.metric.counted else 0.0
    return first.worth - second.worth > least * (1 + ROUNDING) and welch_p_value(first, second) < LEVEL


def welch_p_value(first: Sample, second: Sample) -> float:
    """Two-sided p-value of Welch's t-test; 0 for different means without any spread."""
    if not first.std and not second.std:  # no spread, no t
        return float(first.mean == second.mean)
    from scipy.stats import ttest_ind_from_stats  # takes half a second to import, and most commands rank nothing

    test = ttest_ind_from_stats(first.mean, first.std, first.n, second.mean, second.std, second.n, equal_var=False)
    return float(test.pvalue)


def target_bands(kept_shares: Sequence[float], width: float) -> list[float]:
    """For each target the largest one of its band: targets that lie within `width` of it are asked the same."""
    heads: dict[float, float] = {}
    head = None
    for share in sorted(set(kept_shares), reverse=True):
        if head is None or head - share > width:
            head = share
        heads[share] = head
    return [heads[share] for share in kept_shares]

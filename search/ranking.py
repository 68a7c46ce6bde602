"""Orders that respect the noise, of candidates and of results.

Candidates are ordered by search accuracy. Those within one standard error of the best it cannot tell apart (the
one-standard-error rule, Breiman et al., 1984); these are ordered by their drift, which is smooth where accuracy counts
images.

Results share a rank unless the spread of their seeds tells them apart.
Two means differ if Welch's t-test says so at the 5 % level (two-sided, unequal variances) and they lie more than one
test image apart. A rank is one more than the number of results in the same band that are better in this sense, and
never before that of a result with a higher mean: wide spreads win nothing. A single seed has an unknown spread, so its
result has no rank.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtr

from search.candidate import Outcome

LEVEL = 0.05


def best_first(outcomes: Sequence[Outcome]) -> list[int]:
    """The places of the outcomes that were judged, the best first; ties stay in their order.

    One that was stopped at a rung comes after all that were trained for longer. Where the images are no judge of
    accuracy and outcomes have a merit for it, that alone orders them.
    """
    judged = [index for index, outcome in enumerate(outcomes) if outcome.worth is not None]
    judged.sort(
        key=lambda index: (-outcomes[index].epochs, -(outcomes[index].worth or 0.0), outcomes[index].loss or 0.0)
    )
    found: list[int] = []
    for _, group in itertools.groupby(judged, key=lambda index: outcomes[index].epochs):
        found += _with_ties_by_drift(list(group), outcomes)
    return found


def _with_ties_by_drift(places: list[int], outcomes: Sequence[Outcome]) -> list[int]:
    """The order of `places`, but for those that accuracy cannot tell from the first."""
    drifts = [outcomes[index].drift for index in places if outcomes[index].merit is None]
    if len(drifts) < len(places) or None in drifts:
        return places
    best = outcomes[places[0]]
    limit = (best.accuracy or 0.0) - standard_error(best) - 1e-9
    near = [index for index in places if (outcomes[index].accuracy or 0.0) >= limit]
    return sorted(near, key=lambda index: outcomes[index].drift or 0.0) + places[len(near) :]


def standard_error(outcome: Outcome) -> float:
    """Of an accuracy, by the binomial distribution of its images; 0 if their number is not known."""
    accuracy = outcome.accuracy or 0.0
    return float((accuracy * (1 - accuracy) / outcome.images) ** 0.5) if outcome.images else 0.0


@dataclass(frozen=True)
class Sample:
    """Test accuracies of one row: mean and standard deviation (n − 1) over seeds, in 0..1."""

    mean: float
    std: float | None
    n: int
    images: int
    """That each seed was judged on."""


def ranks(samples: Sequence[Sample | None]) -> list[int | None]:
    """The rank of each sample among those of one band; None where there is no spread to rank by."""
    found: list[int | None] = [None] * len(samples)
    last = 1
    ranked = [(own.mean, index, own) for index, own in enumerate(samples) if own is not None and own.std is not None]
    for _, index, own in sorted(ranked, key=lambda each: -each[0]):
        last = found[index] = max(last, 1 + sum(better(other, own) for other in samples))
    return found


def better(one: Sample | None, other: Sample | None) -> bool:
    """Whether `one` is better than `other` beyond the noise; never if either spread is unknown."""
    if one is None or other is None or one.std is None or other.std is None:
        return False
    image = 1 / max(1, min(one.images, other.images))
    return one.mean - other.mean > image * (1 + 1e-9) and welch(one, other) < LEVEL


def welch(one: Sample, other: Sample) -> float:
    """Two-sided p-value of Welch's t-test; 0 for different means without any spread."""
    assert one.std is not None
    assert other.std is not None
    parts = [sample.std**2 / sample.n for sample in (one, other) if sample.std is not None]
    error = sum(parts)  # squared standard error of the difference
    if error == 0:
        return float(one.mean == other.mean)
    freedom = error**2 / sum(part**2 / (sample.n - 1) for part, sample in zip(parts, (one, other), strict=True))
    return float(2 * stdtr(freedom, -abs(one.mean - other.mean) / error**0.5))


def bands(kept: Sequence[float], width: float) -> list[float]:
    """For each target the largest one of its band: targets that lie within `width` of it are asked the same."""
    heads: dict[float, float] = {}
    head = None
    for value in sorted(set(kept), reverse=True):
        if head is None or head - value > width:
            head = value
        heads[value] = head
    return [heads[value] for value in kept]

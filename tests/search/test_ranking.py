"""Ranks against SciPy's own test."""

from __future__ import annotations

import statistics
from dataclasses import replace

import numpy as np
import pytest
from board_fakes import IMAGES
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_ind

from models.tasks.metric import ACCURACY, Metric
from search.candidate import Outcome
from search.ranking import LEVEL, Sample, is_better, rank_numbers, standard_error, target_bands, welch_p_value

samples = st.lists(st.integers(0, IMAGES), min_size=2, max_size=6).map(lambda right: [n / IMAGES for n in right])


def sample(accuracies: list[float]) -> Sample:
    std = statistics.stdev(accuracies) if len(accuracies) > 1 else None
    return Sample(statistics.fmean(accuracies), std, len(accuracies), IMAGES)


@given(samples, samples)
def test_better_is_what_welchs_test_says(one: list[float], other: list[float]) -> None:
    expected = ttest_ind(one, other, equal_var=False).pvalue if max(np.ptp(one), np.ptp(other)) > 0 else None
    if expected is None:
        expected = float(one[0] == other[0])
    assert welch_p_value(sample(one), sample(other)) == pytest.approx(expected, abs=1e-9)
    gap = np.mean(one) - np.mean(other)
    if abs(expected - LEVEL) > 1e-6 and abs(abs(gap) - 1 / IMAGES) > 1e-9:
        assert is_better(sample(one), sample(other)) == (gap > 1 / IMAGES and expected < LEVEL)


def test_ties_share_a_rank_and_leave_a_gap_behind() -> None:
    rows = [sample([0.90, 0.901, 0.902]), sample([0.95, 0.951, 0.952]), sample([0.9501, 0.9512, 0.9525]),
            sample([0.80, 0.801, 0.802])]  # fmt: skip
    assert rank_numbers(rows) == [3, 1, 1, 4]


def test_one_seed_and_none_have_no_rank_and_push_nobody_down() -> None:
    assert rank_numbers([sample([0.99]), None, sample([0.5, 0.51])]) == [None, None, 1]


def test_a_wide_spread_does_not_rank_before_a_higher_mean() -> None:
    first, second, third = sample([0.9926, 0.9942, 0.9910]), sample([0.9700, 0.9710]), sample([0.8756, 0.9072])
    assert is_better(first, second)
    assert not is_better(first, third)  # its two seeds are too far apart for that
    assert rank_numbers([third, first, second]) == [2, 1, 2]


@given(st.lists(samples, max_size=8))
def test_ranks_rise_as_means_fall_and_start_at_one(rows: list[list[float]]) -> None:
    made = [sample(accuracies) for accuracies in rows]
    found = rank_numbers(made)
    order = sorted(range(len(made)), key=lambda index: -made[index].mean)
    risen = [rank for index in order if (rank := found[index]) is not None]
    assert risen == sorted(risen)
    assert risen[:1] in ([], [1])


def test_one_image_is_no_difference_even_without_any_spread() -> None:
    one, other, third = (Sample(right / 360, 0.0, 3, 360) for right in (300, 299, 298))
    assert not is_better(one, other)
    assert is_better(one, third)


def test_bands_hold_targets_that_ask_for_the_same() -> None:
    assert target_bands([0.3, 0.5, 0.4985, 0.4717, 0.496], 0.005) == [0.3, 0.5, 0.5, 0.4717, 0.5]


def test_a_users_accuracy_counts_no_images() -> None:
    """It may be weighted, or of pixels: neither the binomial error nor a step of one image is known of it."""
    own = Metric.parse("accuracy, %")
    for metric, error in ((ACCURACY, 0.05), (own, 0.0)):
        outcome = Outcome(status="ok", metric=metric, metrics={"accuracy": 0.5}, images=100)
        assert standard_error(Outcome.model_validate(outcome.model_dump(mode="json"))) == pytest.approx(error)
    first, second = (Sample(mean, 1e-6, 3, 100, metric=own) for mean in (0.905, 0.9))
    assert is_better(first, second)
    assert not is_better(replace(first, metric=ACCURACY), second)

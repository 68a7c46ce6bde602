"""Latency by a clock of our own: what is measured must follow from what the calls were made to take."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from search.export.model_card import time_text
from search.latency import timing as module
from search.latency.timing import (
    BLOCK,
    LEAST_ROUNDS,
    ROUNDS,
    far_below,
    measure_latency,
    measure_pair,
    quartile_distance,
)


class Clock:
    """A clock that only the calls move, faster or slower as time goes by."""

    def __init__(self, slowdown: float = 0.0) -> None:
        self.now, self.slowdown, self.calls = 0.0, slowdown, []

    def __call__(self) -> float:
        return self.now

    def takes(self, name: str, seconds: float):
        def call(*_: object) -> None:
            self.calls.append(name)
            self.now += seconds * (1 + self.slowdown * self.now)

        return call


def test_each_round_gives_the_time_of_one_call():
    clock = Clock()
    times = measure_pair(clock.takes("dense", 0.002), clock.takes("small", 0.0005), clock=clock)
    assert len(times.dense) == len(times.compressed) == ROUNDS
    assert times.dense == pytest.approx([2.0] * ROUNDS)
    assert times.compressed == pytest.approx([0.5] * ROUNDS)


def test_both_take_turns_and_the_first_of_a_round_alternates():
    clock = Clock()
    measure_pair(clock.takes("d", BLOCK), clock.takes("s", BLOCK), clock=clock)
    warm_up = 4  # of each: one call, then one that fills the block
    turns = "".join(clock.calls[warm_up:])
    assert turns == ("ddss" + "ssdd") * (ROUNDS // 2) + "ddss" * (ROUNDS % 2)


def test_slow_calls_stop_at_the_least_number_of_rounds():
    clock = Clock()
    times = measure_pair(clock.takes("dense", 60.0), clock.takes("small", 30.0), clock=clock)
    assert len(times.dense) == LEAST_ROUNDS


def test_a_machine_that_slows_down_does_not_change_the_speed_up(monkeypatch):
    clock = Clock(slowdown=1.0)  # a call takes twice as long after a second
    monkeypatch.setattr(module.time, "perf_counter", clock)
    times = measure_latency(
        clock.takes("dense", 0.003),
        clock.takes("small", 0.001),
        torch.zeros(4, 1),
        engine="torch",
        device="cpu",
        threads=1,
        theoretical=3.0,
    )
    assert times.dense_spread_ms > 0.1 * times.dense_ms  # the machine did slow down
    assert times.speed_up == pytest.approx(3.0, rel=0.05)
    assert times.speed_up == times.dense_ms / times.compressed_ms, "the factor fits the two figures beside it"
    assert not times.far_below
    assert (times.batch, times.rounds) == (4, ROUNDS)


@given(st.lists(st.floats(0, 1e3), min_size=2, max_size=30))
def test_spread_is_the_distance_of_the_quartiles(values):
    low, high = np.percentile(values, [25, 75])
    assert math.isclose(quartile_distance(values), high - low, rel_tol=1e-9, abs_tol=1e-9)


@pytest.mark.parametrize(
    ("real", "promised", "expected"),
    [(1.0, 2.0, True), (1.49, 2.0, True), (1.5, 2.0, False), (2.4, 2.0, False), (0.7, 1.5, True), (1.0, 1.0, False)],
)
def test_far_below_means_less_than_half_of_the_gain(real, promised, expected):
    assert far_below(real, promised) is expected


@pytest.mark.parametrize(
    ("median", "spread", "text"),
    [
        (281.4, 12.3, "281 ± 12"),
        (3.861, 0.24, "3.86 ± 0.2"),
        (0.02872, 0.000815, "0.0287 ± 0.0008"),
        (12345.6, 0, "12346 ± 0"),
    ],
)
def test_times_are_shown_without_exponents(median, spread, text):
    assert time_text(median, spread) == text

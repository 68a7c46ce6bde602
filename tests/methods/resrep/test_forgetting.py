"""The schedule against a real optimizer, the choice of rows against brute force, the gradient rule by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.resrep.compactor import ZERO, Compactor
from methods.resrep.forgetting import (
    TIE,
    distance_within,
    forget_arrived_rows,
    plan_schedule,
    set_gradient,
    smallest_rows,
)


@pytest.mark.parametrize(("steps", "momentum"), [(1, 0.99), (37, 0.99), (400, 0.99), (50, 0.5)])
def test_reach_is_what_sgd_does_under_a_unit_force(steps: int, momentum: float) -> None:
    position = torch.zeros((), dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.SGD([position], lr=0.03, momentum=momentum)
    for _ in range(steps):
        position.grad = torch.ones_like(position)
        optimizer.step()
    assert distance_within(steps, 0.03, momentum) == pytest.approx(-float(position.detach()), rel=1e-9)


def test_long_budgets_follow_the_paper() -> None:
    steps = 480 * 782  # epochs of 50,000 images in batches of 64
    schedule = plan_schedule(steps, 0.01, 500, penalty=1e-4, interval=200)
    assert (schedule.interval, schedule.batch) == (200, 4)
    assert schedule.penalty == schedule.pull == 1e-4
    assert schedule.momentum == 0.99
    assert float(schedule.pull_strength(schedule.last, torch.ones(()))) == pytest.approx(1e-4)
    assert (schedule.lr, schedule.size_weight) == (0.01, TIE)
    assert (schedule.first, 25_000 <= schedule.last - schedule.first <= 30_000) == (5 * 782, True)


@pytest.mark.parametrize("steps", [1, 2, 7, 40, 351, 5000])
@pytest.mark.parametrize("rows", [0, 3, 177, 5000])
def test_short_budgets_select_all_rows_in_time(steps: int, rows: int) -> None:
    schedule = plan_schedule(steps, 0.02, rows, penalty=1e-4, interval=200)
    events = [step for step in range(steps) if schedule.is_selection(step)]
    allowed = [schedule.may_mask(step) for step in events]
    assert allowed[-1] is None  # the last one masks all that is asked for
    assert None not in allowed[:-1]
    assert all(b > a for a, b in pairwise(allowed[:-1]))
    assert schedule.batch * len(events) >= rows
    assert events[-1] <= schedule.last < max(1, schedule.deadline)
    time_left = max(1, schedule.deadline - schedule.last)
    assert schedule.deadline <= 0.7 * steps  # the rest is for recovery
    assert schedule.pull * distance_within(time_left, 0.4 * schedule.lr, schedule.momentum) > 1  # the norm at the start
    assert 0.9 <= schedule.momentum <= 0.99


def costs(prices: np.ndarray, crossed: float):
    """A bilinear cost of widths (n, sites), as networks have."""
    return lambda widths: np.rint(widths @ prices + crossed * widths[:, 0] * widths[:, -1]).astype(np.int64)


def by_hand(scores: list[np.ndarray], floors: list[int], limit: int | None, flops, budget: int) -> list[set[int]]:
    """Mask the smallest row anywhere that may go, one at a time, until the budget or the limit is met."""
    masked: list[set[int]] = [set() for _ in scores]
    while limit is None or sum(map(len, masked)) < limit:
        widths = np.array([[len(each) - len(gone) for each, gone in zip(scores, masked, strict=True)]], dtype=float)
        free = [
            (each[row], s, row)
            for s, each in enumerate(scores)
            for row in range(len(each))
            if row not in masked[s] and widths[0, s] > floors[s]
        ]
        if not free or (flops is not None and flops(widths)[0] <= budget):
            break
        _, s, row = min(free)
        masked[s].add(row)
    return masked


shapes = st.lists(st.integers(1, 7), min_size=1, max_size=4)


@settings(max_examples=60)
@given(shapes, st.integers(0, 2**31), st.one_of(st.none(), st.integers(0, 20)))
def test_smallest_rows_down_to_given_widths(sizes: list[int], seed: int, limit: int | None) -> None:
    random = np.random.default_rng(seed)
    scores = [random.permutation(100)[:size] / 100 for size in sizes]
    floors = [int(random.integers(0, size + 1)) for size in sizes]
    masks = smallest_rows(scores, floors, limit)
    expected = by_hand(scores, floors, limit, None, 0)
    assert sum(map(np.count_nonzero, masks)) == sum(map(len, expected))
    if len({float(x) for each in scores for x in each}) == sum(sizes):  # without ties the choice is unique
        assert [set(np.flatnonzero(mask)) for mask in masks] == expected


@settings(max_examples=60)
@given(shapes, st.integers(0, 2**31), st.floats(0.05, 1))
def test_smallest_rows_down_to_a_budget(sizes: list[int], seed: int, target: float) -> None:
    random = np.random.default_rng(seed)
    total = sum(sizes)
    values = 0.1 + random.permutation(total) / total
    scores = np.split(values, np.cumsum(sizes)[:-1])
    flops = costs(random.integers(1, 50, len(sizes)).astype(float), float(random.integers(0, 5)))
    floors = [1] * len(sizes)
    budget = int(target * flops(np.array([sizes], dtype=float))[0])
    masks = smallest_rows(scores, floors, None, flops, budget)
    greedy = by_hand(scores, floors, None, flops, budget)
    chosen = [set(np.flatnonzero(mask)) for mask in masks]
    assert all(mine <= theirs for mine, theirs in zip(chosen, greedy, strict=True))  # rows are only given back
    widths = np.array([[size - len(mine) for size, mine in zip(sizes, chosen, strict=True)]], dtype=float)
    if flops(np.ones_like(widths))[0] > budget:
        assert chosen == greedy  # out of reach: all that may go is gone
        return
    assert flops(widths)[0] <= budget
    for s, mine in enumerate(chosen):  # nothing more could be given back
        assert not mine or flops(widths + np.eye(len(sizes))[s])[0] > budget


@pytest.mark.parametrize(("smallest", "given_back"), [(ZERO / 2, False), (0.1, True)])
def test_only_rows_that_still_live_are_given_back(smallest: float, given_back: bool) -> None:
    cheap, dear = np.array([smallest, 1.0]), np.array([0.5, 2.0])
    masks = smallest_rows([cheap, dear], [1, 1], None, costs(np.array([1.0, 10.0]), 0), budget=17)
    # 22 -> 21 without the cheap row -> 11 without the dear one, and then the cheap one fits again
    assert masks[0].tolist() == [not given_back, False]
    assert masks[1].tolist() == [True, False]


def test_gradient_rule_by_hand() -> None:
    torch.manual_seed(0)
    compactor = Compactor("site", 5, torch.empty(0))
    torch.nn.init.normal_(compactor.weight)
    compactor.alive[4] = 0
    loss_gradient = torch.randn(5, 5)
    compactor.weight.grad = loss_gradient.clone()
    masked = [False, True, False, True, True]
    schedule = plan_schedule(1000, 0.02, 3, penalty=0.01, interval=200)
    step = schedule.last + 1
    set_gradient(compactor, torch.tensor(masked), schedule, step)
    assert compactor.weight.grad is not None
    for d in range(5):
        row = compactor.weight[d].tolist()
        length = math.sqrt(sum(x * x for x in row))
        pull = float(schedule.pull_strength(step, torch.tensor(length)))
        assert pull >= schedule.pull >= schedule.penalty == 0.01
        for c in range(5):
            force = (pull if masked[d] else 0.01) * row[c] / length if d != 4 else 0.0
            expected = (0.0 if masked[d] else float(loss_gradient[d, c])) + force
            assert float(compactor.weight.grad[d, c]) == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("lr", [0.001, 0.1])
@pytest.mark.parametrize("outward", [0.0, 0.02], ids=["at rest", "moving outward"])
def test_pulled_rows_come_to_rest_at_zero_and_others_do_not(lr: float, outward: float) -> None:
    compactor = Compactor("site", 3, torch.empty(0))
    masked = torch.tensor([True, False, True])
    schedule = plan_schedule(400, lr, 2, penalty=1e-4, interval=200)
    rate = 0.6 * schedule.lr
    optimizer = torch.optim.SGD([compactor.weight], lr=rate, momentum=schedule.momentum, nesterov=True)
    compactor.weight.grad = -outward / rate * torch.eye(3) * masked[:, None]
    optimizer.step()  # leaves the masked rows with a velocity
    lengths, before = [], compactor.current_rows().detach().clone()
    for step in range(schedule.last, 400):
        compactor.weight.grad = torch.zeros(3, 3)
        if lengths:
            forget_arrived_rows(compactor, masked, before)
        set_gradient(compactor, masked, schedule, step)
        compactor.weight.grad[1] = 0  # of a row that stays, only the masked ones' pull is looked at
        before = compactor.current_rows().detach().clone()
        optimizer.step()
        lengths.append(compactor.row_norms().tolist())
    assert lengths[-1] == [0.0, 1.0, 0.0]
    first = next(step for step, (length, *_) in enumerate(lengths) if length == 0)
    assert 10 < first <= schedule.deadline - schedule.last
    assert lengths[first - 1][0] < 0.15  # it had come down, not been cut off
    assert all(length == [0.0, 1.0, 0.0] for length in lengths[first:])  # and does not swing back


def test_late_rows_are_pulled_harder() -> None:
    schedule = plan_schedule(400, 0.02, 9, penalty=1e-4, interval=200)
    ahead, level, late = (float(schedule.pull_strength(step, torch.tensor(norm)))
                          for step, norm in ((60, 0.1), (schedule.last, 1.0), (70, 1.0)))  # fmt: skip
    assert ahead == pytest.approx(schedule.pull)
    assert level == pytest.approx(schedule.pull)
    assert late > 3 * schedule.pull


def test_the_shorter_the_budget_the_more_a_filters_size_counts_and_the_slower_its_row_learns() -> None:
    schedules = [
        plan_schedule(steps, 0.02, 50, penalty=1e-4, interval=200) for steps in (0, 10, 351, 35_100, 375_360, 10**6)
    ]
    rates, weights = [s.lr for s in schedules], [s.size_weight for s in schedules]
    assert rates == sorted(rates)
    assert weights == sorted(weights, reverse=True)
    assert 0 < rates[0] < 1e-4
    assert rates[2] == pytest.approx(0.02 * (351 / 375_360) ** 0.5)
    assert weights[2] == pytest.approx(1 - (351 / 375_360) ** 0.5)
    assert rates[-2:] == [0.02, 0.02]
    assert weights[-2:] == [TIE, TIE]

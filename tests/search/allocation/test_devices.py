"""Latencies on several devices: all limits are kept, found again by trying every allocation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from device_samples import chain_method

from methods.base import Levels
from models.errors import UserError
from search.allocation.allocate import check_reachable, project_shape, uniform_shape
from search.allocation.choice import constrain_choice
from search.allocation.constraints import Constraints, step_rule
from search.allocation.targets import parse_target


class Linear:
    """Nanoseconds that fall by so much for each level of each site."""

    def __init__(self, dense: int, falls: tuple[int, ...]) -> None:
        self.dense_nanoseconds, self._falls = dense, np.array(falls)

    def __call__(self, levels: Levels) -> np.ndarray:
        return self.dense_nanoseconds - levels @ self._falls


PHONE, SERVER = Linear(100_000, (900, 500, 1200)), Linear(80_000, (700, 900, 100))


def test_both_limits_are_kept_and_one_of_them_binds() -> None:
    compressor = chain_method()
    target = parse_target("latency@phone 0.6 + latency@server 0.7")
    latency = {"latency@phone": PHONE, "latency@server": SERVER}
    budget = check_reachable(target, compressor.sites, compressor.cost, latency, method="l1", network="chain")
    assert budget.limits == {"latency@phone": 60_000, "latency@server": 56_000}
    assert budget.limits_text() == "60 µs on phone and 56 µs on server"
    levels = project_shape(uniform_shape(3), compressor.sites, budget).levels
    phone, server = int(PHONE(levels)), int(SERVER(levels))
    assert phone <= 60_000
    assert server <= 56_000
    assert budget.binding_measures(levels) == [
        name for name, figure, limit, dense in (("latency@phone", phone, 60_000, 100_000),
                                                ("latency@server", server, 56_000, 80_000))
        if figure >= limit - 0.005 * dense
    ]  # fmt: skip
    sizes = [range(len(site.settings)) for site in compressor.sites]
    fits = [tried for tried in itertools.product(*sizes)
            if PHONE(np.array(tried)) <= 60_000 and SERVER(np.array(tried)) <= 56_000]  # fmt: skip
    assert tuple(levels) in fits


def test_a_device_that_is_out_of_reach_is_named() -> None:
    compressor = chain_method()
    latency = {"latency@phone": PHONE, "latency@server": Linear(80_000, (1, 1, 1))}
    with pytest.raises(UserError, match=r"target '0\.7' \(56 µs on server\) is out of reach"):
        check_reachable(
            parse_target("latency@phone 0.6 + latency@server 0.7"), compressor.sites, compressor.cost, latency,
            method="l1", network="chain",
        )  # fmt: skip


def test_steps_leave_multiples_and_halves() -> None:
    choice = constrain_choice(chain_method(), Constraints(), [step_rule(16, ["phone"])])
    assert choice.is_rounded
    widths = [set(site.widths) for site in choice.sites]
    assert widths == [{32, 16, 8, 4, 2, 1}, {64, 48, 32, 16, 8, 4, 2, 1}, {32, 16, 8, 4, 2, 1}]

"""Random numbers that do not depend on how many are drawn."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from methods.graph.steady_draws import SteadyDraws

DRAWS: dict[str, Callable[[int], Tensor]] = {
    "rand": lambda n: torch.rand(2, n),
    "uniform_": lambda n: torch.empty(2, n).uniform_(-3, 5),
    "randn": lambda n: torch.randn(2, n),
    "normal": lambda n: torch.normal(torch.ones(2, n), torch.full((2, n), 0.5)),
    "log_normal_": lambda n: torch.empty(2, n).log_normal_(0.5, 0.3),
    "exponential_": lambda n: torch.empty(2, n).exponential_(),
    "poisson": lambda n: torch.poisson(torch.full((2, n), 2.5)),
    "bernoulli": lambda n: torch.full((2, n), 0.4).bernoulli(),
    "bernoulli_": lambda n: torch.empty(2, n).bernoulli_(0.4),
    "randint": lambda n: torch.randint(2, 9, (2, n)),
    "random_": lambda n: torch.empty(2, n).random_(2, 9),
    "dropout": lambda n: F.dropout(torch.ones(2, n), 0.3),
    "dropout2d": lambda n: F.dropout2d(torch.ones(2, n, 3, 3), 0.3),
    "gumbel": lambda n: F.gumbel_softmax(torch.zeros(2, n)) * n,
}


@pytest.mark.parametrize("name", DRAWS)
def test_numbers_are_those_of_any_other_size(name: str) -> None:
    """One number for the whole tensor, within the range of true draws; later operators get other numbers."""
    draws = {}
    for width in (3, 7):
        with SteadyDraws():
            draws[width] = [DRAWS[name](width) for _ in range(4)]
    for narrow, wide in zip(draws[3], draws[7], strict=True):
        assert narrow.shape[1] == 3
        torch.testing.assert_close(narrow.flatten()[0].expand_as(wide), wide)
    true = torch.cat([DRAWS[name](50).flatten() for _ in range(100)])
    if name != "gumbel":  # all the same are equal parts, which chance gives to none
        assert true.min() <= min(map(torch.min, draws[3]))
        assert max(map(torch.max, draws[3])) <= true.max()


def test_orders_are_backwards_and_loops_that_wait_for_a_draw_end() -> None:
    with SteadyDraws():
        assert torch.randperm(4).tolist() == [3, 2, 1, 0]
        while float(torch.rand(1)) > 0.1:
            pass
        while not torch.full((2,), 0.02).bernoulli().any():
            pass

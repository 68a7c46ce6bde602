"""Outputs compared: as distributions, or by their squared error."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from scipy.stats import entropy
from torch import Tensor

from models.tasks.outputs import Logits, distillation_loss, output_divergence, output_list


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_tensors_are_taken_from_lists_and_dictionaries_in_order() -> None:
    first, second, third = random(2), Logits(random(2, 3)), random(4)
    assert output_list({"boxes": [first, (second, None)], "score": third, "name": "x"}) == [first, second, third]
    assert output_list(first)[0] is first


@given(st.integers(2, 5), st.integers(2, 6), st.floats(0.5, 5))
def test_logits_by_scipy(n: int, classes: int, temperature: float) -> None:
    ours, dense = random(n, classes, seed=1) * 3, random(n, classes, seed=2) * 3
    p, q = (softmax(x.double().numpy(), 1) for x in (dense, ours))
    expected = np.mean([jensenshannon(a, b) ** 2 for a, b in zip(p, q, strict=True)])
    assert float(output_divergence([Logits(ours)], [Logits(dense)])) == pytest.approx(expected, abs=1e-9)
    p, q = (softmax(x.double().numpy() / temperature, 1) for x in (dense, ours))
    expected = temperature**2 * np.mean([entropy(a, b) for a, b in zip(p, q, strict=True)])
    assert float(distillation_loss([Logits(ours)], [Logits(dense)], temperature)) == pytest.approx(
        expected, rel=1e-3, abs=1e-5
    )


def test_classes_may_lie_along_any_dimension() -> None:
    """A map of class scores is as many distributions as it has places."""
    ours, dense = random(2, 4, 3, 5, seed=1), random(2, 4, 3, 5, seed=2)
    rows = [maps.permute(0, 2, 3, 1).reshape(-1, 4) for maps in (ours, dense)]
    expected = output_divergence([Logits(rows[0])], [Logits(rows[1])])
    assert output_divergence([Logits(ours)], [Logits(dense)]) == pytest.approx(expected)
    moved = [maps.movedim(1, -1) for maps in (ours, dense)]
    assert output_divergence([Logits(moved[0], -1)], [Logits(moved[1], -1)]) == pytest.approx(expected)


def test_other_outputs_by_their_error_over_the_dense_variance() -> None:
    ours, dense = random(6, 2, seed=1), 10 * random(6, 2, seed=2)
    expected = np.mean((ours.numpy() - dense.numpy()) ** 2) / np.var(dense.numpy())
    assert float(output_divergence([ours], [dense])) == pytest.approx(expected, rel=1e-6)
    assert float(distillation_loss([ours], [dense], 4.0)) == pytest.approx(expected, rel=1e-6)


def test_an_output_that_does_not_vary_is_compared_by_its_error_alone() -> None:
    assert float(output_divergence([torch.full((4,), 3.0)], [torch.ones(4)])) == 4.0
    assert float(output_divergence([torch.tensor(3.0)], [torch.tensor(1.0)])) == 4.0


def test_several_outputs_add_up_and_equal_ones_do_not_diverge() -> None:
    pairs = [(random(3, 2, seed=1), random(3, 2, seed=2)), (Logits(random(3, 4, seed=3)), Logits(random(3, 4, seed=4)))]
    ours, dense = zip(*pairs, strict=True)
    apart = sum(float(output_divergence([a], [b])) for a, b in pairs)
    assert float(output_divergence(ours, dense)) == pytest.approx(apart)
    assert float(output_divergence(dense, dense)) == 0.0
    assert float(distillation_loss(dense, dense, 2.0)) == pytest.approx(0.0, abs=1e-6)


def test_certainly_wrong_logits_count_no_more_than_wrong_ones() -> None:
    ours, dense = Logits(torch.tensor([[100.0, -100.0]])), Logits(torch.tensor([[-100.0, 100.0]]))
    assert float(output_divergence([ours], [dense])) == pytest.approx(math.log(2))

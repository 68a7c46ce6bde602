"""Choices of one pass given to another: only where it chooses among the same numbers, or as many regions."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torchvision.ops import nms

from methods.graph.steady_choices import SteadyChoices, agree_with_choices

SCORES = torch.tensor([0.2, 0.7, 0.7, 0.1], dtype=torch.float64)
ROUNDED = SCORES + torch.tensor([0, 0, 1e-12, 0], dtype=torch.float64)
OTHER = torch.tensor([0.2, 0.5, 0.7, 0.1], dtype=torch.float64)
BOXES = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1.01], [5, 5, 6, 6], [9, 9, 10, 10]], dtype=torch.float64)


@pytest.mark.parametrize(
    "choose",
    [
        lambda scores: scores.sort(descending=True, stable=True).indices,
        lambda scores: scores.topk(2).indices,
        lambda scores: scores.argmax(),
        lambda scores: (scores > scores[1]).long(),
        lambda scores: (scores * 1e13).round() / 1e13,
    ],
)
def test_rounding_does_not_choose_and_other_numbers_do(choose) -> None:
    choices, plain = SteadyChoices(), choose(OTHER)
    with choices:
        noted = choose(SCORES)
    with choices.repeat():
        assert torch.equal(choose(ROUNDED), noted)
    with choices.repeat():
        assert torch.equal(choose(OTHER), plain)


def test_what_was_noted_stays_when_code_writes_over_it() -> None:
    choices = SteadyChoices()
    with choices:
        order = SCORES.argsort(descending=True)
        wanted = order.clone()
        order.zero_()
    with choices.repeat():
        assert torch.equal(SCORES.argsort(descending=True), wanted)


def test_regions_are_repeated_whatever_their_scores_and_by_detectors_alone() -> None:
    choices = SteadyChoices()
    with choices:
        kept = nms(BOXES, SCORES, 0.5)
    with choices.repeat_regions():
        assert torch.equal(nms(BOXES * 3, OTHER, 0.5), kept)
    no_detector = SteadyChoices()
    with no_detector:
        SCORES.argmax()
    assert isinstance(no_detector.repeat_regions(), nullcontext)


def test_outputs_that_only_the_order_of_equal_scores_makes_differ_agree() -> None:
    def pick(scores: Tensor) -> list[Tensor]:
        return [torch.arange(4.0, dtype=torch.float64)[scores.argsort(descending=True, stable=True)]]

    assert not torch.equal(pick(SCORES)[0], pick(ROUNDED)[0])
    assert agree_with_choices(lambda: pick(SCORES), lambda: pick(ROUNDED))
    assert not agree_with_choices(lambda: pick(SCORES), lambda: pick(OTHER))

"""Batches of which only their task knows what they are made of."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from models.tasks.batches import MovedBatches, count_inputs, draw_apart, move_batch

PICTURES = [torch.zeros(3, 8, 8), torch.zeros(3, 6, 9), torch.zeros(3, 4, 4)]


@pytest.mark.parametrize(
    ("batch", "count"),
    [
        (torch.zeros(5, 2), 5),
        ([torch.zeros(4, 2), torch.zeros(4)], 4),
        ((PICTURES, [{"boxes": torch.zeros(7, 4)}] * 3), 3),
        ({"image": torch.zeros(6, 1, 2, 2), "mask": torch.zeros(6)}, 6),
        ([{"image": torch.zeros(3, 8, 8)}] * 2, 3),
        ("text", 1),
        (torch.tensor(1.0), 1),
    ],
)
def test_inputs_of_a_batch(batch: Any, count: int) -> None:
    assert count_inputs(batch) == count


def test_all_tensors_of_a_batch_are_moved_and_the_rest_stays() -> None:
    moved = move_batch({"images": PICTURES, "names": ["a", "b"], "size": (torch.ones(2), 3)}, torch.device("meta"))
    assert [picture.device.type for picture in moved["images"]] == ["meta"] * 3
    assert moved["size"][0].is_meta
    assert (moved["names"], moved["size"][1]) == (["a", "b"], 3)
    batches = MovedBatches([torch.zeros(2), torch.zeros(1)], torch.device("meta"))
    assert len(batches) == 2
    assert [batch.is_meta for batch in batches] == [True, True]


def draw_numbers() -> Iterator[tuple[float, float, float]]:
    for _ in range(3):
        yield float(torch.rand(())), float(np.random.rand()), random.random()


def test_drawing_and_training_do_not_disturb_each_other() -> None:
    alone = list(draw_apart(draw_numbers, 7))
    assert len(set(alone)) == 3
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    outside = [(float(torch.rand(())), float(np.random.rand()), random.random()) for _ in range(4)]
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    mixed, between = [], []
    for batch in draw_apart(draw_numbers, 7):
        mixed.append(batch)
        between.append((float(torch.rand(())), float(np.random.rand()), random.random()))
    assert mixed == alone
    assert between == outside[:3]
    assert list(draw_apart(draw_numbers, 8)) != alone


def test_a_loader_that_is_left_in_the_middle_gives_the_numbers_back() -> None:
    torch.manual_seed(3)
    expected = float(torch.rand(()))
    torch.manual_seed(3)
    loader = DataLoader(TensorDataset(torch.arange(20)), batch_size=4, shuffle=True)
    next(draw_apart(lambda: loader, 0))
    assert float(torch.rand(())) == expected

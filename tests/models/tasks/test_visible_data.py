"""What is seen of a task's data and settings: other ones have another digest, rounding and order of calls have none."""

from __future__ import annotations

import functools
from typing import Any

import denoising
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset

from models.tasks.visible_data import digest_visible

IMAGES = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(IMAGES, IMAGES)


def weighted_loss(network: Any, batch: Any, weight: float = 1.0) -> Tensor:
    loss: Tensor = weight * (network(batch[0]) - batch[1]).square().mean()
    return loss


def loss_of(weight: float) -> Any:
    return lambda network, batch: weight * weighted_loss(network, batch)


def digest(**changes: Any) -> str:
    return digest_visible(denoising.build(**({"search": DataLoader(DATA, 4), "loss": weighted_loss} | changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"search": DataLoader(TensorDataset(IMAGES * 2, IMAGES), 4)},
        {"search": DataLoader(Subset(DATA, range(20)), 4)},
        {"search": [(IMAGES, IMAGES)]},
        {"loss": functools.partial(weighted_loss, weight=0.001)},
        {"loss": loss_of(0.5)},
        {"identity": "of May"},
    ],
)
def test_other_data_and_settings_are_told_apart(changes: dict[str, Any]) -> None:
    assert digest(**changes) != digest()


def test_settings_of_one_function_are_told_apart() -> None:
    assert digest(loss=loss_of(0.5)) != digest(loss=loss_of(0.25))
    assert digest(loss=loss_of(0.5)) == digest(loss=loss_of(0.5))
    partials = [digest(loss=functools.partial(weighted_loss, weight=weight)) for weight in (0.1, 0.2)]
    assert partials[0] != partials[1]


def test_the_same_data_is_known_again_on_another_processor() -> None:
    jitter = TensorDataset(IMAGES * (1 + 1e-7), IMAGES)
    assert digest(search=DataLoader(jitter, 4)) == digest()


def test_arrays_and_names_are_seen() -> None:
    class Attributes:
        def __init__(self, array: np.ndarray, name: str) -> None:
            self.labels, self.name, self.again = array, name, self

    first = digest_visible(Attributes(np.arange(5), "a"))
    assert first == digest_visible(Attributes(np.arange(5), "a"))
    assert first != digest_visible(Attributes(np.arange(1, 6), "a"))
    assert first != digest_visible(Attributes(np.arange(5), "b"))

"""Seeds for a block of code."""

from __future__ import annotations

import random

import numpy as np
import torch

from models.execution.random_state import random_state


def test_one_seed_gives_the_same_numbers_and_leaves_those_outside() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    drawn = []
    for seed in (1, 1, 2):
        with random_state(torch.device("cpu"), seed):
            drawn.append((random.random(), np.random.rand(), float(torch.rand(1))))
    assert drawn[0] == drawn[1]
    assert all(first != other for first, other in zip(drawn[0], drawn[2], strict=True))
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), before[2])

"""Random numbers of a block of code: the same with one seed, and without a trace in what the code outside draws."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import numpy as np
import torch


@contextmanager
def random_state(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Random numbers of torch, Python and NumPy by a seed, if one is given; afterwards they go on as before.

    A network may draw noise in evaluation too, and code draws depths and augmentations with Python's generator.
    """
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            if seed is not None:
                _seed_device(device, seed)
                random.seed(seed)
                np.random.seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


class HostDraws:
    """Notes whether random numbers are drawn by Python, NumPy or torch's generator of the CPU while it lasts."""

    happened = False

    def __enter__(self) -> Self:
        self._before = _host_states()
        return self

    def __exit__(self, *_: object) -> None:
        self.happened = _host_states() != self._before


def _host_states() -> tuple[object, ...]:
    _, keys, position, *normal = np.random.get_state(legacy=True)
    return random.getstate(), np.asarray(keys).tobytes(), position, *normal, torch.get_rng_state().numpy().tobytes()


def _seed_device(device: torch.device, seed: int) -> None:
    if device.type == "cpu":
        # torch.manual_seed also leaves a note, with a stack trace, for every kind of device that is not in use yet.
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)

"""How labelled images are drawn in training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

from torch import Tensor

_SEEDS_APART = 100_003  # a prime: no two epochs of small seeds are drawn alike


class TrainingBatches:
    """Epochs for training, on top of `batches` and a length."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batches(
        self, batch_size: int, *, seed: int | None = None, augment: bool = False, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of images and labels, on the device."""

    def epoch_steps(self, batch_size: int) -> int:
        """Batches of one epoch of training; the last, smaller one is left out, unless it is the only one."""
        return max(len(self) // batch_size, 1)

    def training_batches(self, batch_size: int, *, seed: int, epoch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch's batches, shuffled and augmented; every epoch has an order of its own."""
        size = min(batch_size, len(self))
        return self.batches(size, seed=seed * _SEEDS_APART + epoch, augment=True, drop_last=True)

    def statistics_batches(self, batch_size: int, *, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches as `training_batches` has them, over which batch norm is measured."""
        return self.batches(min(batch_size, len(self)), seed=seed, augment=True, drop_last=True)

"""What a network of a task is trained to do, on batches of whatever the task's are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from models.tasks.outputs import Output

Batch = Any
"""What a task's batches are made of is its own affair; on the device."""


class Objective(ABC):
    """How networks of a task are trained, and which of their outputs are compared with the dense network's."""

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch, *, label_smoothing: float = 0.0) -> Tensor:
        """A scalar; autocast is on where the device has it."""

    @abstractmethod
    def outputs(self, network: nn.Module, batch: Batch) -> list[Output]:
        """What distillation and drift compare; called if `has_outputs`."""

    has_outputs: bool = True

    def loss_and_outputs(
        self, network: nn.Module, batch: Batch, *, label_smoothing: float = 0.0
    ) -> tuple[Tensor, list[Output]]:
        """Both, of one forward pass if that can be had."""
        return self.loss(network, batch, label_smoothing=label_smoothing), self.outputs(network, batch)

    @abstractmethod
    def forward(self, network: nn.Module, batch: Batch) -> None:
        """A forward pass for its own sake: batch norm is measured on it. Modes of modules are left as they are."""

    @abstractmethod
    def calibration_loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The loss whose gradients methods look at, with norms and dropout in evaluation."""

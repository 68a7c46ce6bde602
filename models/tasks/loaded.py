"""What the engine asks of a task, whatever it is: batches to train on, a loss, scores, outputs to compare.

`models.task.Task` is the smaller contract that users write; `given.GivenTask` makes it one of these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import nn

from models.task_config import TaskConfig
from models.tasks.metric import Metric
from models.tasks.objective import Batch, Objective

Split = Literal["search", "test"]


class TrainingPart(Protocol):
    """Training data of which batches are drawn."""

    def __len__(self) -> int:
        """How many inputs."""

    def epoch_steps(self, batch_size: int) -> int:
        """Batches of one epoch, one at least."""

    def training_batches(self, batch_size: int, *, seed: int, epoch: int = 0) -> Iterator[Batch]:
        """One epoch's batches, shuffled and augmented; the same ones for the same seed and epoch."""

    def statistics_batches(self, batch_size: int, *, seed: int) -> Iterator[Batch]:
        """Augmented batches over which batch norm is measured."""


class Score(NamedTuple):
    """What judging a network gave."""

    metrics: Mapping[str, float]
    """By name, the ranking one first."""
    loss: float | None
    """Mean over the inputs, where the task measures it."""
    inputs: int
    """That were judged."""


@dataclass
class LoadedTask(ABC):
    """A task, loaded on a device."""

    noun: ClassVar[str] = "input"
    """What one of its inputs is called."""

    config: TaskConfig
    network: nn.Module
    """Dense, in evaluation mode, on the device."""
    metrics: tuple[Metric, ...]
    objective: Objective
    tune: TrainingPart
    """The part of the training set that fine-tunes."""
    train: TrainingPart
    """What finalists, already chosen, are fine-tuned on: the search split as well, where that can be trained on."""
    device: torch.device
    fingerprint: str
    parts: Mapping[str, object]
    """What the fingerprint is a hash of: digests of network, weights and data, and settings."""
    training_fault: str | None
    """Why the network cannot be fine-tuned, if it cannot."""
    seen: bool
    """Whether the weights may have been trained on the search split."""
    notices: tuple[str, ...]
    """What was found out when network and data were read, a sentence each (`models.notices`)."""

    @property
    def metric(self) -> Metric:
        """The one that ranks."""
        return self.metrics[0]

    @property
    @abstractmethod
    def example(self) -> Any:
        """Two inputs on the device: a tensor, or `models.execution.inputs.Inputs`."""

    def check(self, *, test: bool) -> None:  # noqa: B027
        """UserError if the task cannot be worked with; called once, before any candidate is paid for.

        Args:
            test: whether the test set is going to be met.
        """

    @abstractmethod
    def count_inputs(self, split: Split) -> int:
        """Inputs of a split."""

    @abstractmethod
    def score(self, network: nn.Module, split: Split, count: int | None = None) -> Score:
        """Judge a network, in evaluation mode and at full precision.

        Args:
            count: on the first so many inputs only, where the task can; None: on all.
        """

    @abstractmethod
    def probes(self, count: int) -> Iterator[Batch]:
        """Batches of `count` inputs at most on which drift is measured; the same ones at every call."""

    @abstractmethod
    def describe_data(self) -> dict[str, Any]:
        """What is known of the data, as plain JSON, for the run's record."""

    @abstractmethod
    def calibration_batches(self) -> Iterator[Batch]:
        """A few batches of the fine-tuning part for the methods that look at data."""

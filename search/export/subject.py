"""What is exported, loaded and tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from methods.base import Allocation, Compressor, Cost
from models.execution.inputs import Inputs
from models.tasks.loaded import LoadedTask
from search.candidate import Candidate
from search.export.finished_run import FinishedRun
from search.export.pick import Picked

Say = Callable[[str], None]


@dataclass
class Subject:
    """What is exported, loaded."""

    run: FinishedRun
    picked: Picked
    wanted: str
    """The pick as the user wrote it."""
    task: LoadedTask
    compressor: Compressor
    candidate: Candidate
    allocation: Allocation
    network: nn.Module
    """Fine-tuned, on the CPU, in evaluation mode."""
    inputs: Inputs
    """Of the test set, on the CPU."""
    score: float
    """Of `network` on the test set, by the metric that ranks."""

    @property
    def cost(self) -> Cost:
        return self.compressor.cost_of(self.allocation)

    @property
    def example(self) -> Inputs:
        """Noise, or what the task gives as an example, as it may end up in files."""
        return Inputs.of(self.task.example).to("cpu")

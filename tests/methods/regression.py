"""A task whose outputs are numbers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from models.tasks.objective import Batch, Objective
from models.tasks.outputs import Output


class Regression(Objective):
    """Of batches (inputs, targets): all outputs are numbers."""

    def loss(self, network: nn.Module, batch: Batch, *, label_smoothing: float = 0.0) -> Tensor:
        return functional.mse_loss(network(batch[0]), batch[1])

    def outputs(self, network: nn.Module, batch: Batch) -> list[Output]:
        return [network(batch[0])]

    def forward(self, network: nn.Module, batch: Batch) -> None:
        network(batch[0])

    def calibration_loss(self, network: nn.Module, batch: Batch) -> Tensor:
        return self.loss(network, batch)

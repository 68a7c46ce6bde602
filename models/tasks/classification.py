"""How networks that score classes are trained: cross-entropy, and their scores are what is compared."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from models.execution.training_outputs import class_scores
from models.tasks.objective import Batch, Objective
from models.tasks.outputs import Logits, Output


class Classification(Objective):
    """Of batches (inputs, labels)."""

    def loss(self, network: nn.Module, batch: Batch, *, label_smoothing: float = 0.0) -> Tensor:
        return self.loss_and_outputs(network, batch, label_smoothing=label_smoothing)[0]

    def loss_and_outputs(
        self, network: nn.Module, batch: Batch, *, label_smoothing: float = 0.0
    ) -> tuple[Tensor, list[Output]]:
        inputs, labels = batch
        scores = class_scores(network(inputs)).float()
        return functional.cross_entropy(scores, labels, label_smoothing=label_smoothing), [Logits(scores)]

    def outputs(self, network: nn.Module, batch: Batch) -> list[Output]:
        return [Logits(class_scores(network(batch[0])).float())]

    def forward(self, network: nn.Module, batch: Batch) -> None:
        network(batch[0])

    def calibration_loss(self, network: nn.Module, batch: Batch) -> Tensor:
        inputs, labels = batch
        return functional.cross_entropy(class_scores(network.eval()(inputs)), labels)


CLASSIFICATION = Classification()

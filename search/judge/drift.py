"""How far a compressed network's outputs have drifted from the dense network's, on the task's probes.

No label is needed: the dense network's outputs take its place, as in distillation. A divergence
(`models.tasks.outputs`) is smooth where accuracy counts images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from models.tasks.batches import count_inputs
from models.tasks.loaded import LoadedTask
from models.tasks.objective import Batch, Objective
from models.tasks.outputs import Output, output_divergence

SEEN = (
    "the weights may have seen the search images: candidates are ranked by drift from the dense outputs on blends of "
    "these, and their accuracy is no result"
)
_SPLIT_SEEN = "the network may have been trained on the search split"
_MAX_INPUTS = 1000  # divergences are smooth, and every setting is measured on the same probes


def drift_notes(task: LoadedTask) -> list[str]:
    """What a reader must know of how the task's candidates are ranked and fine-tuned, a sentence each."""
    if task.noun == "image":
        return [SEEN] if task.seen else []
    rank = f"candidates rank by {task.metric.name} alone"
    if task.objective.has_outputs:
        by_drift = f"{_SPLIT_SEEN}: candidates are ranked by drift from the dense outputs"
        return [f"{by_drift}, and their {task.metric.name} there is no result"] if task.seen else []
    seen = [f"{_SPLIT_SEEN}, so {task.metric.name} there is no result"] if task.seen else []
    return [f"the task gives no outputs to compare: nothing is distilled, drift is not measured, {rank}", *seen]


class Drift:
    """Compares networks with one dense network of a task; its outputs are computed once."""

    def __init__(self, dense: nn.Module, objective: Objective, probes: Callable[[int], Iterable[Batch]]) -> None:
        """`probes`: of so many inputs at most, the same batches at every call."""
        self._dense, self._objective, self._probes = dense, objective, probes
        self._dense_outputs: dict[int, list[list[Output]]] = {}

    @torch.no_grad()
    def __call__(self, network: nn.Module, count: int | None = None) -> float:
        """Mean divergence of the outputs over the first `count` probes, at most 1,000; 0 to log 2 nats for logits.

        Both networks are in evaluation mode; every call on a number of probes takes the same ones.
        """
        objective, count = self._objective, min(count or _MAX_INPUTS, _MAX_INPUTS)
        if count not in self._dense_outputs:
            self._dense_outputs[count] = [objective.outputs(self._dense, batch) for batch in self._probes(count)]
        total, inputs = 0.0, 0
        for batch, dense_outputs in zip(self._probes(count), self._dense_outputs[count], strict=True):
            divergence = float(output_divergence(objective.outputs(network, batch), dense_outputs))
            total, inputs = total + divergence * count_inputs(batch), inputs + count_inputs(batch)
        return total / inputs

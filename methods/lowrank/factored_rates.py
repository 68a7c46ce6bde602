"""Learning rates of the parts of factored layers, at which they move as far as the dense layer would.

With W' = A K (B ⊗ I), a step of rate η on A moves W' by η g Pᵀ P, where g is the gradient of W' and P = K (B ⊗ I): by
up to ‖P‖² as much as the same step on W' itself. A and B are orthonormal when training begins (`factored_layer.py`),
so a step on the core K is the dense layer's step, projected, and A and B are given the rate η over the squared spectral
norm of the core, but at most η. Without that, weights of large norm are driven off in the first steps: ResNet-20's
published ones fall from 88 % to 37 % (search images, ranks at half the FLOPs, 18 steps of rate 0.01), and rise to 91 %
with it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from methods.base import Tuning
from methods.lowrank.factored_layer import CORE, INPUTS, OUTPUTS, FactoredLayer, weight_by_output


class FactoredTuning(Tuning):
    """Gives the projections and expansions of factored layers rates of their own."""

    def __init__(self, lr: float) -> None:
        self._lr = lr

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """One group for each projection and expansion that learns, and one for all else."""
        rest, groups = dict.fromkeys(p for p in network.parameters() if p.requires_grad), []
        for layer in network.modules():
            if not isinstance(layer, FactoredLayer):
                continue
            core = weight_by_output(layer.get_submodule(CORE))  # (r2, r1, K)
            for name, spread in ((INPUTS, core.transpose(0, 1)), (OUTPUTS, core)):
                part = getattr(layer, name, None)
                if part is None or part.weight not in rest:
                    continue
                del rest[part.weight]
                gain = float(torch.linalg.matrix_norm(spread.flatten(1), 2)) ** 2
                groups.append({"params": [part.weight], "lr": self._lr / max(1.0, gain)})
        return [{"params": list(rest)}, *groups] if rest else groups

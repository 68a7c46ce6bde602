"""Mean and covariance of the outputs y of layers that read too many inputs for a covariance of those.

What a projection of the outputs loses needs no more: with S the second moment of inputs, that of y = W x is W S Wᵀ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.graph.narrow import Conv, channels_of
from methods.moments.layer_inputs import PER_DIMENSION, RIDGE, SAMPLES, corrects_shifts
from models.errors import UserError
from models.execution.forward_hooks import forward_hooks
from models.tasks.objective import Batch, Objective


@dataclass
class OutputMoments:
    """Running sums over the outputs of one layer, less `origin`, the mean of its first outputs."""

    origin: Tensor  # (N,) float32, on the outputs' device
    count: int
    total: Tensor  # (N,) float64
    products: Tensor  # (N, N) float64
    shifts: bool = True
    """Whether a constant error is corrected later, as in `layer_inputs.Moments`."""

    @property
    def mean(self) -> Tensor:
        """(N,), with the bias."""
        return self.origin.cpu() + self.total / self.count

    def covariance(self) -> Tensor:
        """(N, N), invertible; the second moment about zero where no bias corrects a constant error."""
        offset = self.total / self.count
        sigma = self.products / self.count - offset[:, None] * offset
        if not self.shifts:
            sigma = sigma + self.mean[:, None] * self.mean
        return sigma + RIDGE * sigma.diagonal().mean().clamp(min=1e-12) * torch.eye(len(sigma), dtype=torch.float64)


@torch.no_grad()
def measure_outputs(
    network: nn.Module, names: Iterable[str], batches: Iterable[Batch], objective: Objective
) -> dict[str, OutputMoments]:
    """Moments of the outputs of the named layers of `network`, which is in evaluation mode, on the batches."""
    moments_of: dict[str, OutputMoments] = {}
    loaded = list(batches)
    hooks = [(network.get_submodule(name), _collect_moments(moments_of, name, len(loaded))) for name in names]
    if not hooks:
        return moments_of
    with forward_hooks(after=hooks):
        for batch in loaded:
            objective.forward(network, batch)
    for name, moments in moments_of.items():
        moments.shifts = corrects_shifts(network, name)
    return moments_of


def _collect_moments(
    moments_of: dict[str, OutputMoments], name: str, batches: int
) -> Callable[[nn.Module, object, Tensor], None]:
    generator = torch.Generator().manual_seed(0)

    def add_outputs(module: nn.Module, _: object, output: Tensor) -> None:
        outputs = channels_of(module, "out")
        channel_dim = -1 - len(module.kernel_size) if isinstance(module, Conv) else -1
        rows = output.movedim(channel_dim, -1).reshape(-1, outputs)
        count = -(-max(SAMPLES, PER_DIMENSION * outputs) // batches)
        y = rows[torch.randperm(len(rows), generator=generator)[:count].to(rows.device)].float()
        if not bool(y.isfinite().all()):
            raise UserError(f"layer {name!r} returns values that are not finite; check the images and the weights")
        if name not in moments_of:
            zeros = torch.zeros(outputs, dtype=torch.float64)
            moments_of[name] = OutputMoments(y.mean(0), 0, zeros, zeros.new_zeros(outputs, outputs))
        moments = moments_of[name]
        y = y - moments.origin
        moments.count += len(y)
        moments.total += y.sum(0, dtype=torch.float64).cpu()
        moments.products += (y.mT @ y).double().cpu()

    return add_outputs

"""Mean and covariance of the outputs y of layers that read too many inputs for a covariance of those.

What a projection of the outputs loses needs no more: with S the second moment of inputs, that of y = W x is W S Wᵀ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from methods.graph.narrow import Conv
from methods.moments.layer_inputs import PER_DIMENSION, SAMPLES, Moments, add_samples, corrects_shifts
from models.errors import UserError
from models.execution.forward_hooks import forward_hooks
from models.tasks.objective import Batch, Objective


def output_rows(layer: nn.Module, output: Tensor) -> Tensor:
    """What a linear layer or convolution returns, or what is shaped so, (positions, N); with or without a batch."""
    channel_dim = -1 - len(layer.kernel_size) if isinstance(layer, Conv) else -1
    rows = output.movedim(channel_dim, -1)
    return rows.reshape(-1, rows.shape[-1])


@torch.no_grad()
def measure_outputs(
    network: nn.Module, names: Iterable[str], batches: Iterable[Batch], objective: Objective
) -> dict[str, Moments]:
    """Moments of the outputs, in one group, of the named layers of `network`, which is in evaluation mode."""
    moments_of: dict[str, Moments] = {}
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
    moments_of: dict[str, Moments], name: str, batches: int
) -> Callable[[nn.Module, object, Tensor], None]:
    generator = torch.Generator().manual_seed(0)

    def add_outputs(module: nn.Module, _: object, output: Tensor) -> None:
        rows = output_rows(module, output)
        count = -(-max(SAMPLES, PER_DIMENSION * rows.shape[1]) // batches)
        y = rows[torch.randperm(len(rows), generator=generator)[:count].to(rows.device)].float()
        if not bool(y.isfinite().all()):
            raise UserError(f"layer {name!r} returns values that are not finite; check the images and the weights")
        add_samples(moments_of, name, y[None])

    return add_outputs

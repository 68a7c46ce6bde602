"""Whether a network's weights are numbers: one NaN makes every output NaN, and every later message misleading."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from models.errors import UserError

_STATISTICS = ("running_mean", "running_var")  # other buffers may hold infinities on purpose, as attention masks do


def check_finite(network: nn.Module, subject: str) -> None:
    """Refuse a network whose parameters or batch-norm statistics hold NaN or infinity.

    Args:
        subject: what a sentence calls the network.

    Raises:
        UserError: naming the first such tensor, and how much of it is no number.
    """
    statistics = [(key, value) for key, value in network.named_buffers() if key.rpartition(".")[2] in _STATISTICS]
    for key, tensor in [*network.named_parameters(), *statistics]:
        if is_lazy(tensor) or not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        wrong = ~torch.isfinite(tensor.detach())
        if wrong.any():
            kind = "NaN" if tensor.isnan().any() else "infinity"
            raise UserError(
                f"the weights of {subject} are not numbers: {key} holds {kind} "
                f"({int(wrong.sum()):,} of its {tensor.numel():,} values are not finite); "
                "give a checkpoint of a training that did not diverge"
            )

"""The plain form of a network that a user hands over, and what cannot be brought into it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from models.errors import UserError
from models.execution.training_modes import mend_modes
from models.execution.wrappers import unwrap_network
from models.notices import add_notice


def standard_form(network: nn.Module, subject: str) -> nn.Module:
    """The plain float32 network in evaluation mode on the CPU that a user's object stands for; changed in place.

    Args:
        subject: what a sentence calls it.

    Raises:
        UserError: it is a program without Python layers, or holds no values.
    """
    network, kinds = unwrap_network(network)
    if kinds:
        add_notice(f"{subject}: {' and '.join(kinds)} taken off")
    _check_kind(network, subject)
    if mended := mend_modes(network):
        kinds_mended = ", ".join(mended)
        add_notice(f"{subject}: train() or eval() of {kinds_mended} does not switch its mode; torch's is used")
    tensors = [*network.parameters(), *network.buffers()]
    others = sorted({str(t.dtype).removeprefix("torch.") for t in tensors if t.is_floating_point()} - {"float32"})
    if others:
        add_notice(f"{subject} holds {' and '.join(others)}; it is worked on in float32")
        network = network.float()
    return network.cpu().eval()


def _check_kind(network: nn.Module, subject: str) -> None:
    if any(isinstance(module, torch.jit.ScriptModule) for module in network.modules()):
        raise UserError(
            f"{subject} is a TorchScript program, whose layers cannot be changed; "
            "give the nn.Module that torch.jit.script or torch.jit.trace was called with"
        )
    tensors = [*network.parameters(), *network.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        raise UserError(
            f"{subject} is on the meta device, which holds shapes and no values; build it on the CPU, "
            "without torch.device('meta')"
        )


def is_lazy_network(network: nn.Module) -> bool:
    """Whether some of its layers take their shapes from the first images that they see."""
    return any(map(is_lazy, [*network.parameters(), *network.buffers()]))

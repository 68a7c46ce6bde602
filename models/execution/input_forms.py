"""Networks that take images in one form alone, channels last or another precision, or that change them in place.

Everything here hands over float32 images, contiguous ones at first. What `forward` then raises, its own assertion or
torch's complaint about types, does not tell what would do. So the other forms are tried.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn

from models.execution.module_copies import copy_module
from models.notices import add_notice

_OTHER_PRECISIONS = (torch.float64, torch.float16, torch.bfloat16)


def mend_input_order(network: nn.Module, images: Tensor, subject: str) -> bool:
    """Have a network that takes channels-last images alone bring its inputs into that order; whether it is one.

    Args:
        images: float32, contiguous, and refused by the network.
        subject: what a sentence calls the network.
    """
    last = images.contiguous(memory_format=torch.channels_last)
    if _accepts_images(network, images) or not _accepts_images(network, last):
        return False
    network.register_forward_pre_hook(_bring_into_channels_last)
    add_notice(f"{subject} takes channels-last images alone; all images are brought into that order for it")
    return True


def precision_advice(network: nn.Module, images: Tensor) -> str:
    """A clause on the one precision in which a network takes the images that it has just refused; empty if in none."""
    if _accepts_images(network, images):
        return ""
    for precision in _OTHER_PRECISIONS:
        if _accepts_images(network, images, precision):
            name = str(precision).removeprefix("torch.")
            return f"; it runs in {name} alone and is worked on in float32; let its code take the type of its weights"
    return ""


def _accepts_images(network: nn.Module, images: Tensor, precision: torch.dtype = torch.float32) -> bool:
    """Whether a copy of the network runs on such images."""
    try:
        with redirect_stdout(sys.stderr), torch.no_grad(), torch.random.fork_rng(devices=[]):
            copy_module(network).to(precision)(images.to(precision))
    except KeyboardInterrupt:
        raise
    except BaseException:  # whatever a user's code raises
        return False
    return True


def _bring_into_channels_last(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        value.contiguous(memory_format=torch.channels_last) if isinstance(value, Tensor) and value.dim() == 4 else value
        for value in inputs
    )


def guard_inputs(network: nn.Module) -> None:
    """Have the network work on copies of its inputs from now on, and every copy of the network as well.

    A batch is used more than once, by the teacher and the student, or by the trials that compare two networks: one
    that changes it in place would change what the other sees.
    """
    if _copy_inputs not in network._forward_pre_hooks.values():
        network.register_forward_pre_hook(_copy_inputs, prepend=True)


def _copy_inputs(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in inputs)

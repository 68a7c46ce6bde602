"""In which memory order a network runs: channels last, which is faster, wherever that computes the same.

Code such as `x.view(len(x), -1)` needs tensors that are contiguous, and raises on channels-last ones; code that reads
strides or storage may even compute something else. So both orders are tried on noise, and a network that tells them
apart stays contiguous. Who makes inputs for a network asks `Task.memory_format`; a task's batches come in it.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout

import torch
from torch import Tensor, nn

from models.execution.gradients import ForwardGuard, run_backward
from models.execution.module_copies import copy_module
from models.execution.tensor_leaves import tensor_leaves

_SEED = 0
# Of the largest output. Layouts differ in the order of summation: about 1e-6 of it with float32, 1e-3 where a GPU
# multiplies in TF32. Channels that were mixed up differ by about 1.
_TOLERANCE = 1e-2


def choose_memory_format(network: nn.Module, images: Tensor) -> torch.memory_format:
    """`torch.channels_last` if the network computes the same in it, in evaluation and in training.

    Weights in channels last must also take contiguous images: those of an export, or of who uses the network.

    Args:
        network: runs on contiguous images in evaluation mode; it is left as it is.
        images: two or more, contiguous, on the network's device.
    """
    if any(tensor.dim() == 5 for tensor in [*network.parameters(), *network.buffers()]):
        return torch.contiguous_format  # torch.channels_last is for four dimensions, and raises for five
    moved = copy_module(network).to(memory_format=torch.channels_last)
    last = images.to(memory_format=torch.channels_last)
    outputs = _run_network(network, images)
    if not all(_same_outputs(outputs, _run_network(moved, inputs)) for inputs in (last, images)):
        return torch.contiguous_format
    return torch.channels_last if _trains_alike(network, moved, images, last) else torch.contiguous_format


def _trains_alike(network: nn.Module, moved: nn.Module, images: Tensor, last: Tensor) -> bool:
    """Whether both orders run in training and give the same, where that can be compared; `moved` is used up."""
    outputs, has_gradients = _training_outputs(copy_module(network).train(), images)
    if outputs is None:
        return True  # it cannot be trained in any order
    others, moved_has_gradients = _training_outputs(moved.train(), last)
    if has_gradients and not moved_has_gradients:
        return False  # hooks and autograd functions may need contiguous gradients
    if others is None or _same_outputs(outputs, others):
        return others is not None
    # Dropout draws its noise in memory order: what differs from call to call says nothing about the order.
    return not _same_outputs(outputs, _run_network(copy_module(network).train(), images, _SEED + 1))


def _training_outputs(network: nn.Module, images: Tensor) -> tuple[list[Tensor] | None, bool]:
    """The outputs in training, and whether a backward pass from them runs.

    The gradients themselves are not compared: with so few images batch norms can make any rounding error large.
    """
    outputs = _run_network(network, images)
    if outputs is None:
        return None, False
    with_graph = [output for output in outputs if output.requires_grad]
    detached = [output.detach() for output in outputs]
    if not with_graph:
        return detached, True
    try:
        with redirect_stdout(sys.stderr), torch.enable_grad():
            run_backward(torch.stack([output.square().sum() for output in with_graph]).sum())
    except KeyboardInterrupt:
        raise
    except BaseException:  # whatever a user's hooks raise
        return detached, False
    return detached, True


def _run_network(network: nn.Module, images: Tensor, seed: int = _SEED) -> list[Tensor] | None:
    """All tensors that the network returns in its mode, with their graph in training; None if it raises."""
    devices = [images.device] if images.device.type == "cuda" else []
    try:
        with (
            redirect_stdout(sys.stderr),
            torch.random.fork_rng(devices=devices),
            torch.set_grad_enabled(network.training),
            ForwardGuard().forward(images.device),
        ):
            torch.manual_seed(seed)
            return [output.float() for output in tensor_leaves(network(images.clone()))]
    except KeyboardInterrupt:
        raise
    except BaseException:  # whatever a user's forward pass raises means the same: not in this order
        return None


def _same_outputs(outputs: list[Tensor] | None, others: list[Tensor] | None) -> bool:
    return (
        outputs is not None
        and others is not None
        and len(outputs) == len(others)
        and all(_is_close(output, other_output) for output, other_output in zip(outputs, others, strict=True))
    )


def _is_close(output: Tensor, expected: Tensor) -> bool:
    if output.shape != expected.shape:
        return False
    bound = _TOLERANCE * output.abs().max() if output.numel() else 0
    return bool(torch.all((output - expected).abs() <= bound))

"""Trial of narrowed networks on paths that evaluation on noise does not take: training, branches on the data.

A layer that evaluation does not call keeps all its inputs; where other images call it, it meets a narrowed tensor and
fails. Training may run code of its own, forward and backward, in any network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.base import copy_network
from methods.graph.flow.passes import SCALES
from methods.graph.trace import evaluation_mode, trace_layers
from models.execution.tensor_leaves import tensor_leaves
from models.execution.user_line import failing_line


def fault_on_other_paths(network: nn.Module, narrowed: nn.Module, example: Tensor) -> str | None:
    """Why a narrowed copy fails where the dense network runs: in training, or on images of another scale."""
    inputs = example.to(next(network.parameters()).dtype)
    error = _training_error(narrowed, inputs)
    if error and _training_error(network, inputs) is None:
        return f"the network does not train without its channels ({error})"
    if all(use.calls for use in trace_layers(network, example).values()):
        return None
    for scale in SCALES:
        error = _forward_error(narrowed, inputs * scale)
        if error and _forward_error(network, inputs * scale) is None:
            return f"the network does not run without its channels on all images ({error})"
    return None


def _forward_error(network: nn.Module, inputs: Tensor) -> str | None:
    """The first line of the error that a forward pass in evaluation raises, if any."""
    twin = copy_network(network)
    try:
        with evaluation_mode(twin, inputs):
            twin(inputs)
    except Exception as error:
        return describe_error(error)
    return None


def _training_error(network: nn.Module, inputs: Tensor) -> str | None:
    """The same of a pass forward and backward in training: a custom gradient may hold a width."""
    twin = copy_network(network)
    try:
        with evaluation_mode(twin, inputs):  # keeps the random state
            twin.train()
            with torch.enable_grad():
                outputs = twin(inputs)
                sums = [output.sum() for output in tensor_leaves(outputs) if output.requires_grad]
                if sums:
                    torch.stack(sums).sum().backward()
    except Exception as error:
        return describe_error(error)
    return None


def describe_error(error: Exception) -> str:
    """The line of the user's code that failed, the error's type and the first line of its message."""
    line = failing_line(error)
    message = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    return message if line is None else f"{line}: {message}"

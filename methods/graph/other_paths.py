"""Trial of narrowed networks on paths that evaluation on noise does not take: training heads, branches on the data.

Channels are traced in evaluation. A layer that is not called there keeps all its inputs; where training or other images
call it, it meets a narrowed tensor and fails. Networks without such layers need no further trial.
"""

from __future__ import annotations

from torch import Tensor, nn

from methods.base import copy_network
from methods.graph.trace import evaluation_mode, trace_layers
from models.execution.user_line import failing_line

_SCALES = (0.0, 0.1, 10.0, -10.0)  # factors on the images, because branches mostly compare a mean or a maximum


def fault_on_other_paths(network: nn.Module, narrowed: nn.Module, example: Tensor) -> str | None:
    """Why a narrowed copy fails where the dense network runs, in training or on images of another scale."""
    if all(use.calls for use in trace_layers(network, example).values()):
        return None
    inputs = example.to(next(network.parameters()).dtype)
    if _forward_error(network, inputs, training=True) is None and (
        error := _forward_error(narrowed, inputs, training=True)
    ):
        return f"the network does not train without its channels ({error})"
    for scale in _SCALES:
        if _forward_error(network, inputs * scale) is None and (error := _forward_error(narrowed, inputs * scale)):
            return f"the network does not run without its channels on all images ({error})"
    return None


def _forward_error(network: nn.Module, inputs: Tensor, *, training: bool = False) -> str | None:
    """The first line of the error that a forward pass raises, if any."""
    twin = copy_network(network)
    try:
        with evaluation_mode(twin, inputs):  # keeps the random state
            twin.train(training)(inputs)
    except Exception as error:
        return describe_error(error)
    return None


def describe_error(error: Exception) -> str:
    """The line of the user's code that failed, the error's type and the first line of its message."""
    line = failing_line(error)
    message = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    return message if line is None else f"{line}: {message}"

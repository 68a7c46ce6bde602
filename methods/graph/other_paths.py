"""Trial of narrowed networks on paths that evaluation on noise does not take: training, branches on the data.

A layer that evaluation does not call keeps all its inputs; where other images call it, it meets a narrowed tensor and
fails. Training may run code of its own, forward and backward, in any network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from methods.graph.flow.passes import SCALES
from methods.graph.trace import evaluation_mode, fitting_inputs, trace_layers
from models.execution.forward_hooks import module_path
from models.execution.module_copies import copy_on_write
from models.execution.tensor_leaves import output_leaves
from models.execution.user_line import failing_line


def fault_on_other_paths(network: nn.Module, narrowed: nn.Module, example: Tensor) -> str | None:
    """Why a narrowed copy fails where the dense network runs: in training, or on images of another scale."""
    inputs = fitting_inputs(network, example)
    failure = _training_failure(narrowed, inputs)
    if failure and _training_failure(network, inputs) is None:
        return f"without its channels, {failure} in training"
    if all(use.calls for use in trace_layers(network, example).values()):
        return None
    for scale in SCALES:
        failure = _forward_failure(narrowed, inputs * scale)
        if failure and _forward_failure(network, inputs * scale) is None:
            return f"without its channels, {failure} on images of another scale"
    return None


def _forward_failure(network: nn.Module, inputs: Tensor) -> str | None:
    """What does not run in a forward pass in evaluation, if anything."""
    twin, path = copy_on_write(network), list[str]()
    try:
        with module_path(twin, path), evaluation_mode(twin, inputs):
            twin(inputs.clone())
    except Exception as error:
        return describe_failure(error, path)
    return None


def _training_failure(network: nn.Module, inputs: Tensor) -> str | None:
    """The same of a pass forward and backward in training: a custom gradient may hold a width."""
    twin, path = copy_on_write(network), list[str]()
    try:
        with module_path(twin, path), evaluation_mode(twin, inputs):  # keeps the random state
            twin.train()
            with torch.enable_grad():
                outputs = twin(inputs.clone())
                sums = [output.sum() for output in output_leaves(outputs) if output.requires_grad]
                if sums:
                    torch.stack(sums).sum().backward()
    except Exception as error:
        return describe_failure(error, path)
    return None


def describe_failure(error: Exception, path: Sequence[str]) -> str:
    """What does not run: the innermost module, and the line of the user's code.

    The error's own text is left out: it says what the narrowed copy met, of which the user has no notion.

    Args:
        path: the modules in which the error was raised, the innermost last.
    """
    place = next((name for name in reversed(path) if name), "the network")
    line = failing_line(error)
    return f"{place} ({line}) does not run" if line else f"{place} does not run"

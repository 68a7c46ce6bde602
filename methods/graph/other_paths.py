"""Trial of narrowed networks on images of another scale, where a branch on the data may call other layers.

A layer that evaluation on noise does not call keeps all its inputs; where other images call it, it meets a narrowed
tensor and fails.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from methods.graph.flow.passes import SCALES
from methods.graph.trace import LayerUse, evaluation_mode
from models.execution.forward_hooks import module_path
from models.execution.module_copies import copy_on_write
from models.execution.user_line import describe_failure


def fault_on_other_scales(
    network: nn.Module, narrowed: nn.Module, example: Tensor, uses: Mapping[str, LayerUse]
) -> str | None:
    """Why a narrowed copy fails where the dense network runs.

    Args:
        uses: of the network's layers: where the example calls all of them, none waits for other images.
    """
    if all(use.calls for use in uses.values()):
        return None
    for scale in SCALES:
        failure = _forward_failure(narrowed, example * scale)
        if failure and _forward_failure(network, example * scale) is None:
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

"""Ways through a network that its evaluation on noise does not take: heads for training alone, branches on the data.

Channels are traced in evaluation. A layer that is not called there keeps its inputs, and where it is called after all,
in training or on other images, it meets a narrowed tensor. Only networks with such layers are tried any further.
"""

from __future__ import annotations

from torch import Tensor, nn

from methods.base import copy_network
from methods.graph.trace import evaluating, trace_layers

_SCALES = (0.0, 0.1, 10.0, -10.0)  # of the images: branches mostly ask for a mean or a maximum


def fault_on_other_paths(network: nn.Module, narrowed: nn.Module, example: Tensor) -> str | None:
    """Why a narrowed copy fails where the network itself runs: in training, or on images of another scale."""
    if all(use.calls for use in trace_layers(network, example).values()):
        return None
    inputs = example.to(next(network.parameters()).dtype)
    if _error(network, inputs, training=True) is None and (error := _error(narrowed, inputs, training=True)):
        return f"the network does not train without its channels ({error})"
    for scale in _SCALES:
        if _error(network, inputs * scale) is None and (error := _error(narrowed, inputs * scale)):
            return f"the network does not run without its channels on all images ({error})"
    return None


def _error(network: nn.Module, inputs: Tensor, *, training: bool = False) -> str | None:
    """The first line of what a forward pass raises, if it does."""
    twin = copy_network(network)
    try:
        with evaluating(twin, inputs):  # keeps the random state
            twin.train(training)(inputs)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    return None

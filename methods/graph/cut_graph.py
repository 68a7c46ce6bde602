"""Layers that autograd cannot connect to the outputs, so that no trace can follow their channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._pytree import tree_leaves

CUT_GRAPH = (
    "its channels cannot be followed to the outputs: a reentrant checkpoint, inference_mode, no_grad or detach in the "
    "forward pass cuts the graph; run that part without it (checkpoint with use_reentrant=False)"
)


def layers_cut_off(network: nn.Module, example: Tensor, layers: list[str]) -> set[str]:
    """The layers that no gradient of the network's outputs reaches.

    Args:
        network: all of its parameters require gradients.
        layers: names of the layers to look at.
    """
    with torch.enable_grad():
        outputs = [leaf for leaf in tree_leaves(network(example)) if isinstance(leaf, Tensor)]
    reached = _reached_parameters(outputs)
    modules = dict(network.named_modules())
    return {name for name in layers if not any(id(parameter) in reached for parameter in modules[name].parameters())}


def _reached_parameters(outputs: list[Tensor]) -> set[int]:
    pending: list[Node] = [output.grad_fn for output in outputs if output.grad_fn is not None]
    seen, reached = set(pending), set()
    while pending:
        node = pending.pop()
        variable = getattr(node, "variable", None)  # only nodes that accumulate a leaf's gradient have one
        if variable is not None:
            reached.add(id(variable))
        for follower, _ in node.next_functions:
            if follower is not None and follower not in seen:
                seen.add(follower)
                pending.append(follower)
    return reached

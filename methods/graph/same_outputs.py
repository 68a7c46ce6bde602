"""Whether a network in which layers were replaced does what it did."""

from __future__ import annotations

import torch
from torch import nn

from methods.graph.trace import evaluation_mode, separate_operators
from models.execution.inputs import Inputs
from models.execution.module_copies import copy_on_write
from models.execution.tensor_leaves import output_leaves


def gives_same_outputs(network: nn.Module, replaced: nn.Module, example: Inputs) -> bool:
    """False as well if the replaced one does not run: the network's code may reach into the layers."""
    try:
        outputs = []
        for candidate in (copy_on_write(network), replaced):
            # Each begins with the random state that it finds, so that networks with noise draw the same one.
            with evaluation_mode(candidate, example.device), separate_operators():
                outputs.append(output_leaves(example.clone()(candidate)))
        pairs = zip(*outputs, strict=True)
        return all(torch.allclose(output, wanted, rtol=1e-3, atol=1e-5) for wanted, output in pairs)
    except Exception:
        return False

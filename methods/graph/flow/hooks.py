"""A forward pass with labels beside it: what modules tell the flow that operators alone do not.

A norm without parameters has no tensor whose labels could say how wide it is; a module that narrows itself
(`keep_in`, `keep_out`) says which labels go in and come out, and its operators are its own business.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from methods.graph.flow.channel_flow import ChannelFlow
from methods.graph.flow.planes import Value, contract
from methods.graph.narrow import CHANNEL_NORMS, SHAPED_NORMS, Norm, channels_of, norm_dim
from methods.graph.operator_recorder import DataReads
from methods.graph.trace import evaluation_mode, separate_operators
from models.execution.forward_hooks import forward_hooks, hookable_modules, module_path
from models.execution.inputs import Inputs
from models.execution.tensor_leaves import first_tensor, tensor_leaves


def run_with_labels(flow: ChannelFlow, network: nn.Module, inputs: Inputs, *, training: bool = False) -> Any:
    """The outputs of a forward pass, with labels beside every activation."""
    modules, inputs = hookable_modules(network), inputs.clone()  # code may write into them
    norms = [(module, partial(_name_norm, flow, name)) for name, module in modules if _is_bare_norm(module)]
    own = [(module, name) for name, module in modules if hasattr(module, "keep_out")]
    norms += [(module, partial(_enter_own, flow, name)) for module, name in own]
    visits = [(module, partial(_note_visit, flow, name)) for name, module in modules]
    with ExitStack() as stack:
        stack.enter_context(module_path(network, flow.path))
        after = [(module, partial(_leave_own, flow, name)) for module, name in own]
        after += [(module, partial(_note_widths, flow, name)) for name, module in modules]
        stack.enter_context(forward_hooks(before=[*norms, *visits], after=after))
        stack.enter_context(evaluation_mode(network, inputs.device))
        network.train(training)
        stack.enter_context(separate_operators())
        stack.enter_context(flow)
        stack.enter_context(flow.calls)
        stack.enter_context(DataReads(flow))
        stack.enter_context(flow.products.attention)
        return inputs(network)


def _enter_own(flow: ChannelFlow, name: str, module: nn.Module, inputs: Any) -> None:
    """A module that narrows itself: its inputs have labels of their own, and what it computes is its own business."""
    flow.suspended += 1
    labels = flow.side_labels(name, "in", channels_of(module, "in"))
    side = Value(torch.Size((len(labels), 1)), (labels[:, None],))
    contract(flow.labels, flow.value_of(first_tensor(inputs)), side, 1, 0, 0, f"{type(module).__name__} {name}")


def _leave_own(flow: ChannelFlow, name: str, module: nn.Module, _inputs: Any, output: Tensor) -> None:
    flow.suspended -= 1
    labels = flow.side_labels(name, "out", channels_of(module, "out"))
    shape = [len(labels) if d == 1 else 1 for d in range(output.dim())]
    flow.set_value(output, Value(output.shape, (labels.reshape(shape),)))


def _note_widths(flow: ChannelFlow, name: str, _module: nn.Module, inputs: Any, output: Any) -> None:
    flow.attributes.note_tensors(name, tensor_leaves((inputs, output)))


def _note_visit(flow: ChannelFlow, name: str, module: nn.Module, _inputs: Any) -> None:
    flow.visited.setdefault(name)
    flow.calls.begin_module(name, training=module.training)


def _is_bare_norm(module: nn.Module) -> bool:
    """A norm that knows its width without a tensor of that size."""
    return isinstance(module, (Norm, *CHANNEL_NORMS)) and not [
        *module.parameters(recurse=False),
        *module.buffers(recurse=False),
    ]


def _name_norm(flow: ChannelFlow, name: str, module: nn.Module, inputs: Any) -> None:
    dim = norm_dim(module) if isinstance(module, SHAPED_NORMS) else 1
    value = flow.value_of(first_tensor(inputs))
    for plane in value.planes:
        if plane.shape[dim] > 1:
            labels = flow.side_labels(name, "out", channels_of(module, "out"))
            shape = [1] * plane.dim()
            shape[dim] = len(labels)
            flow.labels.unite(plane, labels.reshape(shape), f"normalisation in {name}")
            return

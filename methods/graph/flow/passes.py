"""Which forward passes of a network are traced: in evaluation, in training, and on images of other scales.

Evaluation on one image of noise shows most of a network. Training may run code of its own (auxiliary heads, features
that are mixed), and a branch on the data may be taken by other images alone. Layers that no pass reaches keep their
channels, and so do the channels that they could be given.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from methods.graph.changed_inputs import SCALES
from methods.graph.flow.channel_flow import ChannelFlow
from methods.graph.flow.hooks import run_with_labels
from methods.graph.flow.labels import varying_dims
from methods.graph.narrow import CHANNEL_NORMS, LAYERS, SHAPED_NORMS, Norm, channels_of, norm_dim
from methods.graph.operator_recorder import DATA_READERS, OperatorRecorder, ReachRecorder, record_operators
from methods.graph.steady_draws import SteadyDraws
from models.execution.forward_hooks import forward_hooks, hookable_modules
from models.execution.inputs import Inputs
from models.execution.random_state import random_state
from models.execution.tensor_leaves import tensor_leaves

TRACE_PATIENCE = 600.0  # seconds for all passes; the largest networks that are known take one or two minutes


def trace_channels(network: nn.Module, example: Inputs) -> ChannelFlow:
    """Labels after all passes that show something new; the outputs' channels are pinned.

    Args:
        network: a copy; its statistics change.
        example: a batch of inputs, of which the first one is run.
    """
    flow = ChannelFlow(network)
    image = example.first()
    flow.end = time.monotonic() + TRACE_PATIENCE
    flow.products.on = True  # of one pass: FLOPs are those of evaluation
    _trace_pass(flow, network, image, training=False)
    flow.products.on = False
    # Batch norms ask for two images in training; what cannot be run there is not trained either.
    pair = image.repeat(2)
    passes = [(example.training or pair, True), *((image.scale(scale), False) for scale in SCALES)]
    for images, training in passes:
        if flow.suspended or (not training and not unreached_layers(flow, network)):
            break
        # A pass alone costs a fraction of one with labels.
        recorded = record_operators(network, images, ReachRecorder(flow.owners_of), training=training)
        if recorded and _runs_other_code(recorded, flow, network, pair if training else None):
            with contextlib.suppress(Exception), random_state(images.device, 0), SteadyDraws():
                _trace_pass(flow, network, images, training=training)
    if not flow.suspended and (unreached := unreached_layers(flow, network)):
        _pin_what_they_could_take(flow, network, image, unreached)
    return flow


def _trace_pass(flow: ChannelFlow, network: nn.Module, inputs: Inputs, *, training: bool) -> None:
    for output in tensor_leaves(run_with_labels(flow, network, inputs, training=training)):
        for plane in flow.value_of(output).planes:
            flow.labels.pin(plane, "it is an output of the network")


def unreached_layers(flow: ChannelFlow, network: nn.Module) -> list[str]:
    """The layers and norms with tensors of their own that no traced pass has run."""
    kinds = (*LAYERS, Norm, *CHANNEL_NORMS)
    candidates = [(name, module) for name, module in network.named_modules() if isinstance(module, kinds)]
    return [name for name, module in candidates if name not in flow.visited and any(module.state_dict())]


def _runs_other_code(recorded: ReachRecorder, flow: ChannelFlow, network: nn.Module, pair: Inputs | None) -> bool:
    """Whether a pass runs operators in a module's code, or reads layers, that no traced pass has run or read.

    Torch's own modules (batch norm, dropout) do in training what is known of them.

    Args:
        pair: the images, if the pass was in training.
    """
    if not recorded.reached.isdisjoint(unreached_layers(flow, network)):
        return True
    torchs_own = {name for name, module in network.named_modules() if type(module).__module__.startswith("torch.nn.")}
    operators, traced = recorded.count_operators(), flow.count_operators()

    def has_more_than(counted: Counter[tuple[str, str]]) -> bool:
        return any(path not in torchs_own for path, _ in operators - counted)

    if pair is None or not has_more_than(traced):
        return has_more_than(traced)
    # Two images may take other operators than one where evaluation does the same (einsum squeezes a batch of one).
    evaluated = record_operators(network, pair, OperatorRecorder())
    return evaluated is None or has_more_than(evaluated.count_operators())


def _pin_what_they_could_take(flow: ChannelFlow, network: nn.Module, image: Inputs, unreached: Sequence[str]) -> None:
    """Pin layers that no pass reached, and channels of their width that a branch on the data could give them.

    That branch is in the nearest module around a layer that runs: what this is given, and what the modules that it
    calls return. Where nothing reads a number off a tensor, no branch depends on the data: those layers are dead.
    """
    modules = dict(network.named_modules())
    branching = {step.module for step in flow.steps if step.operator in DATA_READERS}
    callers: dict[str, list[str]] = {}
    for name in unreached:
        flow.pin_module(name, "no forward pass on noise reached it")
        caller = _calling_module(flow, name)
        if any(path == caller or path.startswith(f"{caller}." if caller else "") for path in branching):
            callers.setdefault(caller, []).append(name)

    def pin_tensors(names: Sequence[str], _module: nn.Module, *values: Any) -> None:
        for tensor in tensor_leaves(values):
            for name in names:
                _pin_width(flow, tensor, modules[name], f"{name}, which no forward pass reached, could be given them")

    before = [(modules[caller], partial(pin_tensors, names)) for caller, names in callers.items()]
    called = [(module, callers.get(_calling_module(flow, name))) for name, module in hookable_modules(network)]
    after = [(module, partial(pin_tensors, names)) for module, names in called if names]
    if callers:
        with forward_hooks(before=before, after=after):
            run_with_labels(flow, network, image)


def _calling_module(flow: ChannelFlow, name: str) -> str:
    """The nearest module around another one that runs: no list of modules does."""
    caller = name.rpartition(".")[0]
    while caller and caller not in flow.visited:
        caller = caller.rpartition(".")[0]
    return caller


def _pin_width(flow: ChannelFlow, tensor: Tensor, layer: nn.Module, reason: str) -> None:
    """Pin a tensor's channels if there are as many as the layer takes."""
    dim = tensor.dim() + norm_dim(layer) if isinstance(layer, (nn.Linear, *SHAPED_NORMS)) else 1
    if dim < tensor.dim() and tensor.shape[dim] == channels_of(layer, "in"):
        for plane in flow.value_of(tensor).planes:
            if dim in varying_dims(plane):
                flow.labels.pin(plane, reason)

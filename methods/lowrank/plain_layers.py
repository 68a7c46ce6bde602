"""The layers of a network that can be taken apart, with their widths and positions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from methods.graph.channels import shared_weights
from methods.graph.narrow import LAYERS, channels_of, replace_module
from methods.graph.same_outputs import gives_same_outputs
from methods.graph.trace import LayerUse, evaluation_mode
from methods.lowrank.factored_layer import FactoredLayer, taps_of, why_not_plain
from methods.lowrank.ranks import LayerShape
from methods.moments.layer_inputs import has_measurable_inputs
from models.errors import UserError
from models.execution.forward_hooks import forward_hooks
from models.execution.inputs import Example, Inputs
from models.execution.module_copies import copy_on_write
from models.execution.tensor_leaves import first_tensor


def find_plain_layers(
    network: nn.Module, example: Example, uses: Mapping[str, LayerUse]
) -> tuple[list[str], dict[str, str]]:
    """The layers that can be taken apart, and for each other one the reason why not."""
    names, reasons, shared = [], {}, shared_weights(network)
    modules = dict(network.named_modules())
    for name, use in uses.items():
        if name not in modules:
            reasons[name] = "it is a bare parameter, and no layer's"
            continue
        reason = shared.get(name) or why_not_plain(modules[name]) or _why_dense(modules[name], use)
        if reason is None:
            names.append(name)
        else:
            reasons[name] = reason
    failing = _unreplaceable(network, Inputs.of(example).first(), names)
    reasons |= dict.fromkeys(failing, "the network's code needs the layer itself, its weight for instance")
    return [name for name in names if name not in failing], reasons


def _why_dense(layer: nn.Module, use: LayerUse) -> str | None:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if use.calls == 0:
        return "not called in evaluation"
    if not use.applies_all_of(weight):
        return "its weight is applied in parts"
    if not bool(weight.isfinite().all()):
        raise UserError("a layer holds weights that are not finite; train it or load other weights first")
    return None if has_measurable_inputs(layer) else "it reads too many inputs for their second moment"


def _unreplaceable(network: nn.Module, example: Inputs, names: Iterable[str]) -> set[str]:
    """Those of the layers that cannot be a module of another class."""

    def runs_with(replaced: Iterable[str]) -> bool:
        twin = copy_on_write(network)
        for name in replaced:
            holder = FactoredLayer()
            holder.add_module("core", twin.get_submodule(name))
            replace_module(twin, name, holder.train(network.get_submodule(name).training))
        return gives_same_outputs(network, twin, example) and _runs_fused(twin, example)

    return set() if runs_with(names) else {name for name in names if not runs_with([name])}


def _runs_fused(network: nn.Module, example: Inputs) -> bool:
    """Whether it runs without `separate_operators`: nn.TransformerEncoderLayer hands weights to a fused operator."""
    try:
        with evaluation_mode(network, example.device), torch.compiler.set_stance("force_eager"):
            example.clone()(network)
    except Exception:
        return False
    return True


def measure_shapes(network: nn.Module, example: Example, uses: Mapping[str, LayerUse]) -> dict[str, LayerShape]:
    """Widths of all layers that are called, and their positions for one input, summed over calls."""
    modules = dict(network.named_modules())
    layers = {name: modules[name] for name, use in uses.items() if use.calls and isinstance(modules.get(name), LAYERS)}
    seen: dict[nn.Module, list[int]] = {layer: [0, 0] for layer in layers.values()}

    def count_positions(layer: nn.Module, inputs: tuple[object, ...], output: Tensor) -> None:
        seen[layer][0] += first_tensor(inputs).numel() // channels_of(layer, "in")
        seen[layer][1] += output.numel() // channels_of(layer, "out")

    inputs = Inputs.of(example).first()
    hooks = forward_hooks(after=[(layer, count_positions) for layer in seen])
    with evaluation_mode(network, inputs.device), hooks:
        inputs.clone()(network)
    return {
        name: LayerShape(
            channels_of(layer, "in"), channels_of(layer, "out"), taps_of(layer), seen[layer][0], uses[name].positions,
            seen[layer][1],
        )
        for name, layer in layers.items()
    }  # fmt: skip

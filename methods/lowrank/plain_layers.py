"""Which layers can be replaced by others, and the widths and positions of layers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from methods.graph.narrow import LAYERS, channels_of, replace_module
from methods.graph.same_outputs import gives_same_outputs
from methods.graph.torch_layers import taps_of
from methods.graph.trace import LayerUse, evaluation_mode
from methods.lowrank.factored_layer import CORE, LayerWithoutWeight
from methods.lowrank.ranks import LayerShape
from models.execution.forward_hooks import forward_hooks
from models.execution.inputs import Example, Inputs
from models.execution.module_copies import copy_on_write
from models.execution.tensor_leaves import first_tensor


def unreplaceable_layers(network: nn.Module, example: Example, names: Collection[str]) -> set[str]:
    """Those of the layers that cannot be a module of another class: the network's code reads their weights, say."""
    first = Inputs.of(example).first()

    def runs_with(replaced: Iterable[str]) -> bool:
        twin = copy_on_write(network)
        for name in replaced:
            holder = LayerWithoutWeight()
            holder.add_module(CORE, twin.get_submodule(name))
            replace_module(twin, name, holder.train(network.get_submodule(name).training))
        return gives_same_outputs(network, twin, first) and _runs_fused(twin, first)

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

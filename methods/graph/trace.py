"""How often every layer applies its weights to one input, from a single forward pass of the dense network.

The FLOPs of a layer are `positions * weight.numel()`, whatever its groups, stride or dilation; those of weights that
are computed, or applied in parts, are what runs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr
from copy import copy
from dataclasses import dataclass
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from methods.graph.narrow import LAYERS
from methods.graph.products import AttentionCalls, Product, WeightSources, read_products
from models.execution.forward_hooks import hookable_modules, module_path
from models.execution.inputs import Example, Inputs
from models.execution.module_copies import copy_on_write
from models.execution.operator_mode import OperatorMode
from models.execution.random_state import random_state
from models.execution.tensor_leaves import tensor_leaves


@dataclass(frozen=True)
class LayerUse:
    """How often a layer's weights are applied for one input; zeros for a layer that evaluation never calls.

    A convolution applies them at its Hout * Wout output positions (a transposed one at its input positions), a
    linear layer once per token.
    """

    positions: int  # summed over calls; rounded where only parts of the weights are applied
    calls: int
    flops: int  # multiply-accumulates

    def applies_all_of(self, weight: Tensor) -> bool:
        """Whether each call applies the weight as a whole: `flops` are `positions * weight.numel()`."""
        return self.flops == self.positions * weight.numel()


@contextmanager
def evaluation_mode(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module's mode and the random state are as before.

    So is what modules hold beside their tensors: code may keep its last features, or a fused weight, as attributes.
    """
    modes = [(module, module.training) for module in network.modules()]
    attributes = [(module, _own_attributes(module)) for _, module in hookable_modules(network)]
    try:
        network.eval()
        with random_state(device), torch.no_grad():
            yield
    finally:
        for module, before in attributes:
            for name in _own_attributes(module).keys() - before.keys():
                del vars(module)[name]
            vars(module).update({name: value for name, (value, _) in before.items()})
            for value, items in before.values():
                if type(value) is dict:
                    value.clear()
                    value.update(items)
                elif type(value) is list:
                    value[:] = items
        for module, training in modes:
            module.training = training


_TORCHS_OWN = frozenset(vars(nn.Module()))


def _own_attributes(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """The attributes of a module's own code, lists and dictionaries with a copy of their items."""
    own = {name: value for name, value in vars(module).items() if name not in _TORCHS_OWN}
    return {name: (value, copy(value) if type(value) in (list, dict) else None) for name, value in own.items()}


def drop_caches(network: nn.Module) -> None:
    """Let the code of a network whose weights were changed forget what it made of the old ones.

    Code that caches (a fused kernel, biases read from a table) does so in evaluation and forgets it where the mode
    changes. Each module's mode stays.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.train(not network.training)
    network.train(not network.training)
    for module, training in modes:
        module.training = training


def fitting_inputs(network: nn.Module, example: Inputs) -> Inputs:
    """The example for one pass, which may write into it; in double precision if the network is."""
    return example.cast(torch.float64) if number_type(network) == torch.float64 else example.clone()


def number_type(network: nn.Module) -> torch.dtype:
    """Double precision if all floating-point parameters have it, single otherwise."""
    types = {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()}
    return torch.float64 if types == {torch.float64} else torch.float32


def is_attention(operator: str) -> bool:
    """Whether an operator is fused attention; its first arguments are queries, keys and values."""
    return "scaled_dot_product" in operator


@contextmanager
def quiet_errors() -> Iterator[None]:
    """Passes that may fail print nothing to stderr while this lasts, as traced `fx` graphs do before they raise."""
    with redirect_stderr(StringIO()):
        yield


@contextmanager
def separate_operators() -> Iterator[None]:
    """Fused blocks (attention's fast path) run operator by operator while this lasts, compiled ones as their Python."""
    # Whatever is compiled has imported torch._dynamo, which takes as long as torch: without it there is no such block.
    compiles = "torch._dynamo" in sys.modules
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.compiler.set_stance("force_eager") if compiles else nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def trace_layers(
    network: nn.Module, example: Example, choices: AbstractContextManager[object] | None = None
) -> dict[str, LayerUse]:
    """The use of every layer's weight, in the order of their first use, uncalled layers last.

    A layer is a convolution or linear module, under its name, or a bare parameter that a functional convolution or
    matrix product applies (`F.conv2d(x, self.kernel)`, attention's projections), under the parameter's name.

    Args:
        example: a batch of inputs on the network's device, of which the first one is run.
        choices: on during the pass, see `steady_choices`.
    """
    uses = {}
    for name, calls in _run_products(network, example, choices).flops.items():
        flops = sum(calls)
        uses[name] = LayerUse(round(flops / max(weight_of(network, name).numel(), 1)), len(calls), flops)
    return uses | {name: LayerUse(0, 0, 0) for name in layer_modules(network) if name not in uses}


def layer_modules(network: nn.Module) -> dict[str, nn.Module]:
    """The convolutions and linear layers among a network's modules."""
    return {name: module for name, module in network.named_modules() if isinstance(module, LAYERS)}


def applied_flops(network: nn.Module, example: Example, choices: AbstractContextManager[object] | None = None) -> int:
    """Multiply-accumulates of everything that applies a parameter, for one input, as they are run."""
    return sum(map(sum, _run_products(network, example, choices).flops.values()))


def weight_of(network: nn.Module, name: str) -> Tensor:
    """The weight of a layer of `trace_layers`: a parameter, or computed from others (`weight_norm`)."""
    owner, _, leaf = name.rpartition(".")
    # Scripted modules have no dictionary of their own.
    parameter = dict(network.get_submodule(owner).named_parameters(recurse=False)).get(leaf)
    weight = network.get_submodule(name).weight if parameter is None else parameter
    assert isinstance(weight, Tensor)
    return weight


def count_params(network: nn.Module) -> int:
    """Number of parameters; shared ones once."""
    return sum(parameter.numel() for parameter in network.parameters())


def uncounted_flops(network: nn.Module, example: Example) -> int:
    """Multiply-accumulates of convolutions and matrix products for one input that apply no parameter.

    They stem from products of activations (attention's scores), which are neither counted nor compressed.
    """
    return _run_products(network, example).uncounted


def _run_products(
    network: nn.Module, example: Example, choices: AbstractContextManager[object] | None = None
) -> _Products:
    """The products of one image, as the channel flow traces it.

    Batches tell less: learned queries are expanded over one or not, experts get tokens of all its images.
    """
    twin, image = (
        copy_on_write(network),
        Inputs.of(example).first().clone(),
    )  # code may keep state, or write into its input
    products = _Products(twin)
    with (
        module_path(twin, products.path), evaluation_mode(twin, image.device), separate_operators(),
        choices or nullcontext(), products.attention, products,
    ):  # fmt: skip
        image(twin)
    return products


class _Products(OperatorMode):
    """The products of a forward pass, by the layer whose weight each applies.

    Attributes:
        flops: name of the layer -> multiply-accumulates of each of its calls.
        uncounted: multiply-accumulates of all products without a parameter.
        attention: on beside this mode.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.attention = AttentionCalls()
        self.flops: dict[str, list[int]] = {}
        self.uncounted = 0
        self.path: list[str] = [""]
        self._sources = WeightSources(network)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = self.run_parts(func, args, kwargs)
        if result is not NotImplemented:
            return result
        operands = tensor_leaves((args, kwargs))
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        for product in read_products(name, args, result):
            self._count_product(product)
        if is_attention(name):
            query, key, value = args[:3]
            self.uncounted += query.numel() * key.shape[-2] + query.numel() // query.shape[-1] * value[0, 0].numel()
        self._sources.follow(name, operands, tensor_leaves(result))
        return result

    def _count_product(self, product: Product) -> None:
        if self._sources.measures_weights(product):
            return
        layers = () if self.attention.running else self._sources.applied_layers(product, self.path[-1])
        if not layers:
            self.uncounted += product.flops
        for position, layer in enumerate(layers):
            self.flops.setdefault(layer, []).append(0 if position else product.flops)

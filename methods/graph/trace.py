"""How often every layer applies its weights to one input, from a single forward pass of the dense network.

The FLOPs of a layer are `positions * weight.numel()`, whatever its groups, stride or dilation (`layer_flops`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.execution.forward_hooks import module_path
from models.execution.operator_mode import OperatorMode

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MATRIX_PRODUCTS = frozenset(["mm", "addmm", "bmm", "baddbmm", "mv", "addmv"])
LAYERS = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)


@dataclass(frozen=True)
class LayerUse:
    """How often a layer's weights are applied for one input; zeros for a layer that evaluation never calls.

    A convolution applies them at its Hout * Wout output positions (a transposed one at its input positions), a
    linear layer once per token.
    """

    positions: int  # summed over calls
    calls: int


@contextmanager
def evaluation_mode(network: nn.Module, example: Tensor) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module's mode and the random state are as before."""
    modes = [(module, module.training) for module in network.modules()]
    devices = [example.device] if example.device.type == "cuda" else []
    try:
        network.eval()
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def is_attention(operator: str) -> bool:
    """Whether an operator is fused attention; its first arguments are queries, keys and values."""
    return "scaled_dot_product" in operator


@contextmanager
def separate_operators() -> Iterator[None]:
    """Fused blocks (attention's fast path) run operator by operator while this lasts, compiled ones as their Python."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def trace_layers(network: nn.Module, example: Tensor) -> dict[str, LayerUse]:
    """The use of every layer's weight, in the order of their first use, uncalled layers last.

    A layer is a convolution or linear module, under its name, or a bare parameter that a functional convolution or
    matrix product applies (`F.conv2d(x, self.kernel)`, attention's projections), under the parameter's name.

    Args:
        example: one input batch (B, C, H, W) on the network's device; its values do not matter.
    """
    products = _run_products(network, example)
    batch = example.shape[0]
    uses = {}
    for name, flops in products.flops.items():
        uses[name] = LayerUse(round(sum(flops) / weight_of(network, name).numel() / batch), len(flops))
    return uses | {name: LayerUse(0, 0) for name in layer_modules(network) if name not in uses}


def layer_modules(network: nn.Module) -> dict[str, nn.Module]:
    """The convolutions and linear layers among a network's modules."""
    return {name: module for name, module in network.named_modules() if isinstance(module, LAYERS)}


def layer_flops(network: nn.Module, uses: Mapping[str, LayerUse]) -> int:
    """Multiply-accumulates of the dense layers for one input: Σ positions × weights."""
    return sum(use.positions * weight_of(network, name).numel() for name, use in uses.items())


def applied_flops(network: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of everything that applies a parameter, for one input, as they are run."""
    return round(sum(map(sum, _run_products(network, example).flops.values())) / example.shape[0])


def weight_of(network: nn.Module, name: str) -> Tensor:
    """The weight of a layer of `trace_layers`: a parameter, or computed from others (`weight_norm`)."""
    owner, _, leaf = name.rpartition(".")
    parameter = network.get_submodule(owner)._parameters.get(leaf)
    weight = network.get_submodule(name).weight if parameter is None else parameter
    assert isinstance(weight, Tensor)
    return weight


def count_params(network: nn.Module) -> int:
    """Number of parameters; shared ones once."""
    return sum(parameter.numel() for parameter in network.parameters())


def uncounted_flops(network: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of convolutions and matrix products for one input that apply no parameter.

    They stem from products of activations (attention's scores), which are neither counted nor compressed.
    """
    return _run_products(network, example[:1]).uncounted


def _run_products(network: nn.Module, example: Tensor) -> _Products:
    products = _Products(network)
    with module_path(network, products.path), evaluation_mode(network, example), separate_operators(), products:
        network(example)
    return products


class _Products(OperatorMode):
    """The convolutions and matrix products of a forward pass, by the weight that each applies.

    Attributes:
        flops: name of the layer -> multiply-accumulates of each of its calls, over the batch.
        uncounted: multiply-accumulates of all products without a parameter.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.flops: dict[str, list[int]] = {}
        self.uncounted = 0
        self.path: list[str] = [""]
        self._layers = layer_modules(network)
        # A parameter is known by its memory: what is applied may be a part of it, or show it transposed.
        self._owners: dict[int, list[str]] = {}
        for name, parameter in network.named_parameters(remove_duplicate=False):
            module, _, leaf = name.rpartition(".")
            layer = module if leaf == "weight" and module in self._layers else name
            self._owners.setdefault(parameter.untyped_storage()._cdata, []).append(layer)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self.run_parts(func, args, kwargs or {})
        if result is not NotImplemented:
            return result
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "convolution":
            inputs, weight, transposed = args[0], args[1], args[6]
            shared = inputs if transposed else result  # the whole weight is applied at each of its positions
            self._record([weight], shared.numel() // shared.shape[1] * weight.numel())
        elif name in MATRIX_PRODUCTS:
            left, right = args[-2:]
            self._record([left, right], left.numel() * (right.shape[-1] if right.dim() > 1 else 1))
        elif is_attention(name):
            query, key, value = args[:3]
            self.uncounted += query.numel() * key.shape[-2] + query.numel() // query.shape[-1] * value[0, 0].numel()
        return result

    def _record(self, operands: Sequence[Tensor], flops: int) -> None:
        owners = next((found for tensor in operands if (found := self._owners_of(tensor))), [])
        if owners:
            # Of modules that share the weight, the one that is running.
            self.flops.setdefault(self.path[-1] if self.path[-1] in owners else owners[0], []).append(flops)
        elif self.path[-1] in self._layers:
            self.flops.setdefault(self.path[-1], []).append(flops)  # it computes its weight
        else:
            self.uncounted += flops

    def _owners_of(self, tensor: Tensor) -> list[str]:
        return self._owners.get(tensor.untyped_storage()._cdata, [])

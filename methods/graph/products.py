"""The products that a network runs: the tensors that each multiplies, and the layer whose weight it applies.

The indices of a product are letters, as in `einsum`: a matrix product is `nk,km`. `b` counts matrices or images, `n`
rows, `m` outputs, `k` inputs, which are summed over; x, y, z are positions, u, v, w those of a kernel. A dimension that
changes nothing in the number of multiplications is a dot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from methods.graph.narrow import LAYERS

MATRIX_PRODUCTS = frozenset(["mm", "addmm", "bmm", "baddbmm", "mv", "addmv"])
SUMMED = frozenset("kuvw")
_CONSTANTS = frozenset(["lift_fresh", "lift_fresh_copy"])  # a number that the code turns into a tensor


@dataclass(frozen=True)
class Product:
    """One convolution, matrix product or step of a recurrent layer, as it was run.

    Attributes:
        left, right: the tensors that are multiplied; activations mostly stand left, weights right.
        left_indices, right_indices: a letter for each of their dimensions.
        flops: multiply-accumulates, over the batch.
        written: elements of the result.
    """

    name: str  # of the operator
    left: Tensor
    right: Tensor
    left_indices: str
    right_indices: str
    flops: int
    written: int

    @property
    def operands(self) -> tuple[tuple[Tensor, str], tuple[Tensor, str]]:
        """Both tensors with their indices."""
        return (self.left, self.left_indices), (self.right, self.right_indices)


def read_products(name: str, args: Sequence[Any], result: Any) -> Iterator[Product]:
    """The products that an operator has run; fused attention, which applies no weight, is not among them."""
    if name == "convolution":
        yield _read_convolution(name, args, result)
    elif name in MATRIX_PRODUCTS:
        left, right = args[-2:]
        batch = "b" * (left.dim() - 2)
        columns = right.shape[-1] if right.dim() > 1 else 1
        indices = f"{batch}nk", f"{batch}km"[: right.dim()]
        yield Product(name, left, right, *indices, left.numel() * columns, result.numel())
    elif name in ("mkldnn_rnn_layer", "_cudnn_rnn"):  # LSTM, on CPUs one direction of one layer at a time
        inputs, weights = args[0], args[1] if name == "_cudnn_rnn" else args[1:3]
        steps = inputs.numel() // inputs.shape[-1]
        for weight in weights:
            if weight.dim() == 2:
                yield Product(name, inputs, weight, "." * inputs.dim(), "..", steps * weight.numel(), 0)
    elif name == "_trilinear":  # nn.Bilinear, whose weight stands between both inputs
        left, weight = args[:2]
        yield Product(name, left, weight, "..", "...", left.shape[0] * weight.numel(), result.numel())


def transposed_outputs(args: Sequence[Any]) -> int | None:
    """The output channels of a transposed convolution in groups; None for others, a depthwise one among them.

    Args:
        args: of the operator `convolution`.
    """
    weight, transposed, groups = args[1], bool(args[6]), int(args[8])
    if not transposed or groups == 1 or (groups == weight.shape[0] and weight.shape[1] == 1):
        return None
    return groups * int(weight.shape[1])


def _read_convolution(name: str, args: Sequence[Any], result: Tensor) -> Product:
    inputs, weight, transposed, groups = args[0], args[1], bool(args[6]), int(args[8])
    depthwise = inputs.shape[1] == groups > 1 and weight.shape[1] == 1
    positions, kernel = "xyz"[: inputs.dim() - 2], "uvw"[: weight.dim() - 2]
    # The weight of a grouped convolution has no dimension for all inputs, a depthwise filter has one input.
    channels = "." if depthwise else "k"
    sides = "m." if groups > 1 else "km" if transposed else "mk"
    shared = inputs if transposed else result  # the whole weight is applied at each of its positions
    flops = shared.numel() // shared.shape[1] * weight.numel()
    return Product(name, inputs, weight, f"b{channels}{positions}", f"{sides}{kernel}", flops, result.numel())


def tensor_attributes(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors that a module holds without having registered them (`self.positions = encode_positions(64)`)."""
    for owner, module in network.named_modules():
        for leaf, value in vars(module).items():
            if isinstance(value, Tensor) and value.is_leaf:
                yield f"{owner}.{leaf}" if owner else leaf, value


def memory_of(tensor: Tensor) -> int:
    """Where a tensor's numbers lie, the same for all views of them; a sparse tensor lies nowhere else."""
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else id(tensor)


class WeightSources:
    """The layers whose parameters a tensor is made of, for tensors that no input reaches.

    A weight that is scaled, cut or multiplied with another one before it is applied still counts for its layer. A
    layer is a convolution or linear module, or a bare parameter, under its name.
    """

    def __init__(self, network: nn.Module) -> None:
        self.layers = {name: module for name, module in network.named_modules() if isinstance(module, LAYERS)}
        # A parameter is known by its memory: what is applied may be a part of it, or show it transposed. Recurrent
        # layers keep all parameters in one piece of memory.
        self._parameters: dict[int, list[tuple[Tensor, str]]] = {}
        for name, parameter in network.named_parameters(remove_duplicate=False):
            memory = memory_of(parameter)
            self._parameters.setdefault(memory, []).append((parameter, self._layer_of(name)))
        # Memory is used anew: every result of an operator sets or deletes the entry of its own.
        constants = [*network.buffers(), *(tensor for _, tensor in tensor_attributes(network))]
        self._made: dict[int, tuple[Source, ...]] = {memory_of(tensor): () for tensor in constants}
        self._modulated: dict[int, tuple[Source, ...]] = {}

    def _layer_of(self, parameter: str) -> str:
        """A layer's weight, and what it computes its weight of (`weight_norm`, `parametrize`), go by its own name."""
        owner, _, leaf = parameter.partition(".parametrizations.")
        if not leaf:
            owner, _, leaf = parameter.rpartition(".")
        if owner not in self.layers:
            return parameter
        computes_weight = "weight" not in self.layers[owner]._parameters  # of weight_g and weight_v
        is_weight = leaf.startswith("weight") if computes_weight else leaf == "weight"
        return owner if is_weight else parameter

    def sources_of(self, tensor: Tensor) -> tuple[Source, ...] | None:
        """The layers that a tensor's elements stem from; None for a tensor that the input reaches."""
        memory = memory_of(tensor)
        if memory not in self._parameters:
            return self._made.get(memory)
        start = tensor.storage_offset()
        inside = [
            (parameter, name) for parameter, name in self._parameters[memory]
            if parameter.storage_offset() <= start < parameter.storage_offset() + max(parameter.numel(), 1)
        ]  # fmt: skip
        names = tuple(name for _, name in inside)
        return (Source(names, inside[0][0].numel()),) if names else ()

    def follow(self, name: str, operands: Sequence[Tensor], results: Sequence[Tensor]) -> None:
        """Note what the results of an operator are made of."""
        sources = [self.sources_of(tensor) for tensor in operands]
        is_activation = name not in _CONSTANTS and None in sources
        made = dict.fromkeys(source for some in sources for source in some or ())
        modulated = self._modulated_by(name, list(zip(operands, sources, strict=True))) if is_activation else ()
        for result in results:
            memory = memory_of(result)
            if memory in self._parameters:
                continue
            self._modulated[memory] = modulated
            # The memory may be that of a tensor that is gone, of another kind.
            self._made.pop(memory, None)
            if not is_activation:
                self._made[memory] = () if name in _CONSTANTS else tuple(made)

    def _modulated_by(
        self, name: str, operands: Sequence[tuple[Tensor, tuple[Source, ...] | None]]
    ) -> tuple[Source, ...]:
        """The parameters that activations have scaled or mixed to a weight (StyleGAN, mixtures of kernels).

        A parameter larger than the activations is what they scale; a smaller one (layer scale) scales them. What a
        layer computes is an activation, whatever becomes of it.
        """
        if name == "convolution":
            return ()
        largest = max((tensor.numel() for tensor, sources in operands if sources is None), default=0)
        found: dict[Source, None] = {}
        if name in MATRIX_PRODUCTS:
            operands = operands[-2:]  # what is added to the product is no factor
        for tensor, sources in operands:
            if sources is None:
                found |= dict.fromkeys(self._modulated.get(memory_of(tensor), ()))
            elif name in MATRIX_PRODUCTS:
                found |= dict.fromkeys(source for source in sources if self.layers.keys().isdisjoint(source.names))
            elif tensor.numel() > largest:
                found |= dict.fromkeys(sources)
        return tuple(found)

    def weight_sources(self, product: Product, tensor: Tensor) -> tuple[Source, ...] | None:
        """The layers that an operand stems from, that of a convolution's weight also where activations scale it."""
        sources = self.sources_of(tensor)
        if sources is None and product.name == "convolution" and tensor is product.right:
            return self._modulated.get(memory_of(tensor)) or None
        return sources

    def applied_layers(self, product: Product, running: str) -> Sequence[str]:
        """The layers whose weights a product applies: none for a product of activations, of two weights both.

        The first one counts its FLOPs.

        Args:
            running: the module that runs.
        """
        made_of = [self.weight_sources(product, tensor) for tensor, _ in product.operands]
        names = [_name_source(sources, running) for sources in made_of if sources]
        if running in names or (not names and running in self.layers):
            return (running,)  # a parameter may be its input; its weight may be made of its input
        return tuple(dict.fromkeys(names))

    def measures_weights(self, product: Product) -> bool:
        """Whether it only measures a weight, by a vector (the power iteration of spectral norm)."""
        made_of = [self.sources_of(tensor) for tensor, _ in product.operands]
        return product.name in ("mv", "addmv") and None not in made_of


class AttentionCalls(TorchFunctionMode):
    """While this mode is on, `running` says whether torch's attention runs.

    Torch runs it as one operator or as several, by the widths and the device; the scores of learned queries, which no
    input reaches, must count for the queries' layer in neither case.
    """

    running = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before, self.running = self.running, self.running or func is scaled_dot_product_attention
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.running = before


@dataclass(frozen=True)
class Source:
    """A parameter that a weight is made of: the layers that hold it, and its size."""

    names: tuple[str, ...]
    size: int


def _name_source(sources: Sequence[Source], running: str) -> str:
    """The layer that counts a weight: the one that runs, if it is one of its own, else that of most of its elements."""
    if any(running in source.names for source in sources):
        return running
    return max(sources, key=lambda source: source.size).names[0]

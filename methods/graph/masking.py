"""A network whose removed channels are masked: what a narrowed one must do.

All channels stay, but every layer and every product of activations sees zeros in place of the removed ones, and norms
and other measures over channels (LayerNorm, RMSNorm, GroupNorm, a mean) take the remaining ones alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from methods.graph.channels import Group, Slots, removed_channels
from methods.graph.flow.call import named_arguments
from methods.graph.flow.channel_flow import ChannelFlow
from methods.graph.flow.find import TracedGroups
from methods.graph.flow.hooks import run_with_labels
from methods.graph.flow.labels import varying_dims
from methods.graph.flow.reductions import NORMS, SOFTMAXES, measured_planes
from methods.graph.narrow import CHANNEL_NORMS, LAYERS, SHAPED_NORMS, channels_of, layer_dims, narrow_module, norm_dim
from methods.graph.products import MATRIX_PRODUCTS
from methods.graph.trace import is_attention
from models.execution.inputs import Inputs
from models.execution.module_copies import copy_on_write
from models.execution.tensor_leaves import first_tensor, output_leaves, tensor_leaves


def masked_outputs(
    network: nn.Module,
    groups: Sequence[Group],
    staying: Mapping[str, Tensor],
    inputs: Inputs,
    traced: TracedGroups,
    *,
    training: bool = False,
) -> list[Tensor]:
    """The outputs of the network with all channels but those in `staying` masked."""
    twin = copy_on_write(network).train(training)
    removed = list(removed_channels(groups, staying))
    flow = _MaskedProducts(twin, traced, removed) if traced.needs_labels else None
    with ExitStack() as hooks:
        _mask_channels(twin, removed, flow, hooks)
        outputs = inputs.clone()(twin) if flow is None else run_with_labels(flow, twin, inputs, training=training)
    return output_leaves(outputs)


class _MaskedProducts(ChannelFlow):
    """Products of activations see zeros in place of the removed channels, which labels tell; measures leave them out.

    A second trace of the same network gives the same labels: those that modules get when they first run, in whatever
    order, are taken over. Tensors that code makes get none, for their sizes may be others.
    """

    labels_new_tensors = False

    def __init__(self, network: nn.Module, traced: TracedGroups, removed: Sequence[tuple[Slots, Tensor]]) -> None:
        super().__init__(network)
        self._removed = traced.labels_of(removed)  # (number of labels,)
        for dimension in traced.dimensions[len(self.labels.dimensions) :]:
            labels = self.labels.add_dimension(dimension.name, dimension.dim, dimension.size)
            self._sides.setdefault((dimension.name, str(dimension.dim)), labels)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if not self.suspended:
            if name in MATRIX_PRODUCTS:
                args = (*args[:-2], *map(self._mask_activation, args[-2:]))
            elif is_attention(name):
                args = (*map(self._mask_activation, args[:2]), *args[2:])
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if self.suspended or not args or not isinstance(args[0], Tensor):
            return result
        if name in NORMS and self.path[-1] in self.norms:  # masked as modules
            return result
        planes = measured_planes(name, named_arguments(func._schema, args, kwargs), self.value_of(args[0]))
        gone = [mask for mask in map(self._find_removed, planes) if mask.any()]
        return self._measure_remaining(func, args, kwargs, gone, result) if gone else result

    def _measure_remaining(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], gone: Sequence[Tensor], dense: Any
    ) -> Any:
        """What an operator makes of the remaining channels, with the labels of what it makes of all."""
        name = func.overloadpacket.__name__
        outputs, tree = tree_flatten(dense)
        with self.paused():
            if name in SOFTMAXES:
                exponents = _fill(args[0], gone, -torch.inf)
                measured = [_fill(func(exponents, *args[1:], **kwargs), gone, 0)]
            else:
                kept = _kept_indices(reduce(torch.logical_or, gone))
                if name in NORMS:
                    ((dim, indices),) = kept.items()
                    parts = _normalise_some(func, args, dim, indices)
                    measured = [torch.zeros_like(outputs[0]).index_copy(dim, indices.to(parts.device), parts)]
                else:
                    small = args[0]
                    for dim, indices in kept.items():
                        small = small.index_select(dim, indices.to(small.device))
                    measured = tensor_leaves(func(small, *args[1:], **kwargs))
                    if name in ("max", "min") and len(measured) == 2:  # the second output tells places
                        measured[1] = next(iter(kept.values())).to(small.device)[measured[1]]
        for old, new in zip(outputs, measured, strict=False):
            self.set_value(new, self.value_of(old))
        return tree_unflatten([*measured, *outputs[len(measured) :]], tree)

    def _find_removed(self, plane: Tensor) -> Tensor:
        return self._removed[plane.clamp_min(0)]

    def _mask_activation(self, tensor: Tensor) -> Tensor:
        value = self.value_of(tensor)
        gone = [mask for mask in map(self._find_removed, value.planes) if mask.any()]
        if gone:
            tensor = _fill(tensor, gone, 0)
            self.set_value(tensor, value)
        return tensor


def _normalise_some(func: Any, args: tuple[Any, ...], dim: int, indices: Tensor) -> Tensor:
    """What a norm makes of some of the channels; of each of a group norm's groups these are equally many."""
    shaped = func.overloadpacket is not torch.ops.aten.native_group_norm
    of_weights = dim - args[0].dim() if shaped else 0
    inputs, *others = (argument.index_select(dim if argument is args[0] else of_weights, indices.to(argument.device))
                       if isinstance(argument, Tensor) else argument for argument in args)  # fmt: skip
    if not shaped:
        weight, bias, images, channels, positions, groups, epsilon = others
        groups = len(indices) if groups == channels else groups  # a norm of every channel alone
        return func(inputs.contiguous(), weight, bias, images, len(indices), positions, groups, epsilon)[0]
    sizes = list(others[0])
    sizes[dim - args[0].dim()] = len(indices)
    return func(inputs, sizes, *others[1:])[0]


def _fill(tensor: Tensor, gone: Iterable[Tensor], number: float) -> Tensor:
    for mask in gone:
        tensor = tensor.masked_fill(mask.to(tensor.device), number)
    return tensor


def _kept_indices(gone: Tensor) -> dict[int, Tensor]:
    """Dimension -> the indices along it of which anything remains.

    Of a dimension that a view took apart, what is removed are whole indices along one of its parts.
    """
    kept = {}
    for dim in varying_dims(gone):
        lines = gone.movedim(dim, 0).reshape(gone.shape[dim], -1)
        kept[dim] = (~lines.all(1)).nonzero().flatten()
    return kept


def _mask_channels(
    network: nn.Module, removed: Sequence[tuple[Slots, Tensor]], flow: ChannelFlow | None, hooks: ExitStack
) -> None:
    """Let every layer see zeros, and norms over channels leave them out, in place of the removed channels.

    Args:
        hooks: gets those on modules. They know the flow and this the modules: a circle, which would keep the network.
    """
    modules = dict(network.named_modules())
    absent: dict[str, list[Tensor]] = {}
    for slots, gone in removed:
        if slots.dim is not None:
            _zero_slices(network, slots.name, slots.dim, gone)
        elif slots.side == "in":
            _zero_inputs(modules[slots.name], gone, flow, hooks)
        elif isinstance(modules.get(slots.name), CHANNEL_NORMS):
            absent.setdefault(slots.name, []).append(gone)
    for name, parts in absent.items():
        _mask_norm(modules[name], torch.cat(parts), flow, hooks)


def _replace(flow: ChannelFlow | None, tensor: Tensor, replacement: Callable[[], Tensor]) -> Tensor:
    """What stands for a tensor from here on, with the tensor's labels."""
    if flow is None:
        return replacement()
    with flow.paused():
        replaced = replacement()
        flow.set_value(replaced, flow.value_of(tensor))
    return replaced


@torch.no_grad()
def _zero_slices(network: nn.Module, name: str, dim: int, gone: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    tensor = getattr(network.get_submodule(owner), leaf)
    if tensor.is_floating_point():  # not indices
        tensor.index_fill_(dim, gone.to(tensor.device), 0)


def _zero_inputs(module: nn.Module, gone: Tensor, flow: ChannelFlow | None, hooks: ExitStack) -> None:
    plain = "weight" in module._parameters and type(module).forward.__module__.startswith("torch.nn.")
    if plain and isinstance(module, LAYERS) and getattr(module, "groups", 1) == 1:
        # The same as inputs of zeros, also for code that uses the weight without calling the layer.
        module.weight.index_fill_(layer_dims(module)[1], gone.to(module.weight.device), 0)
        return
    dim = -1 if isinstance(module, nn.Linear) else 1

    def zero(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        inputs = first_tensor((args, kwargs))
        masked = _replace(flow, inputs, lambda: inputs.index_fill(dim, gone.to(inputs.device), 0))
        return tree_map(lambda argument: masked if argument is inputs else argument, (args, kwargs))

    hooks.enter_context(module.register_forward_pre_hook(zero, with_kwargs=True))


def _mask_norm(norm: nn.Module, gone: Tensor, flow: ChannelFlow | None, hooks: ExitStack) -> None:
    """Let a norm over channels measure and normalise all channels but `gone`, whose outputs become zeros."""
    width = channels_of(norm, "out")
    stays = torch.ones(width, dtype=torch.bool)
    stays[gone] = False
    keep = stays.nonzero().flatten()
    small = copy_on_write(norm)
    narrow_module(small, "out", keep)

    def normalise_kept(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        inputs, where = first_tensor((args, kwargs)), keep.to(output.device)

        def normalise() -> Tensor:
            dim = _channel_dim(norm, inputs, output)
            return torch.zeros_like(output).index_copy(dim, where, small(inputs.index_select(dim, where)))

        return _replace(flow, output, normalise)

    hooks.enter_context(norm.register_forward_hook(normalise_kept, with_kwargs=True))


def _channel_dim(norm: nn.Module, inputs: Tensor, output: Tensor) -> int:
    """The dimension of a norm's channels: a GroupNorm and torchvision's LayerNorm2d have them second, others last."""
    width = channels_of(norm, "out")
    dim = norm_dim(norm)
    if not isinstance(norm, SHAPED_NORMS) or output.shape[dim] != width:
        return 1
    if type(norm) in SHAPED_NORMS or output.shape[1] != width:
        return dim
    normalise: Callable[..., Tensor] = (nn.RMSNorm if isinstance(norm, nn.RMSNorm) else nn.LayerNorm).forward
    plain = normalise(norm, inputs)
    return dim if torch.allclose(plain, output, rtol=1e-3, atol=1e-5) else 1

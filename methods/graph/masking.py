"""A network whose removed channels are masked: what a narrowed one must do.

All channels stay, but every layer and every product of activations sees zeros in place of the removed ones, and norms
over channels (LayerNorm, GroupNorm) measure the remaining ones alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from methods.base import copy_network
from methods.graph.channels import Group, Slots, removed_channels
from methods.graph.flow.arithmetic import SUMS
from methods.graph.flow.find import TracedGroups
from methods.graph.flow.hooks import run_with_labels
from methods.graph.flow.trace import ChannelFlow
from methods.graph.narrow import Conv, channels_of, narrow_module
from methods.graph.trace import MATRIX_PRODUCTS, is_attention


def masked_outputs(
    network: nn.Module,
    groups: Sequence[Group],
    staying: Mapping[str, Tensor],
    inputs: Tensor,
    traced: TracedGroups,
) -> list[Tensor]:
    """The outputs of the network with all channels but those in `staying` masked."""
    twin = copy_network(network).eval()
    removed = list(removed_channels(groups, staying))
    flow = _MaskedProducts(twin, traced.labels_of(removed)) if traced.multiplies_activations else None
    _mask_channels(twin, removed, flow)
    outputs = twin(inputs) if flow is None else run_with_labels(flow, twin, inputs)
    return tree_leaves(outputs)


class _MaskedProducts(ChannelFlow):
    """Products and sums of activations see zeros in place of the removed channels, which labels tell.

    A second trace of the same network gives the same labels.
    """

    def __init__(self, network: nn.Module, removed: Tensor) -> None:
        super().__init__(network)
        self._removed = removed  # (number of labels,)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in MATRIX_PRODUCTS and not self.suspended:
            args = (*args[:-2], *map(self._mask_activation, args[-2:]))
        elif is_attention(name) and not self.suspended:
            args = (*map(self._mask_activation, args[:2]), *args[2:])
        elif name in SUMS and not self.suspended:
            args = (self._mask_activation(args[0]), *args[1:])
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _mask_activation(self, tensor: Tensor) -> Tensor:
        value = self.value_of(tensor)
        for plane in value.planes:
            gone = self._removed[plane.clamp_min(0)]
            if gone.any():
                tensor = tensor.masked_fill(gone.to(tensor.device), 0)
                self.set_value(tensor, value)
        return tensor


def _mask_channels(network: nn.Module, removed: Sequence[tuple[Slots, Tensor]], flow: ChannelFlow | None) -> None:
    """Let every layer see zeros, and norms over channels leave them out, in place of the removed channels."""
    modules = dict(network.named_modules())
    absent: dict[str, list[Tensor]] = {}
    for slots, gone in removed:
        if slots.side == "in":
            _zero_inputs(modules[slots.name], gone, flow)
        elif slots.dim is not None:
            _zero_slices(network, slots.name, slots.dim, gone)
        elif isinstance(modules.get(slots.name), (nn.LayerNorm, nn.GroupNorm)):
            absent.setdefault(slots.name, []).append(gone)
    for name, parts in absent.items():
        _mask_norm(modules[name], torch.cat(parts), flow)


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
    tensor.index_fill_(dim, gone.to(tensor.device), 0)


def _zero_inputs(module: nn.Module, gone: Tensor, flow: ChannelFlow | None) -> None:
    plain = "weight" in module._parameters and type(module).forward.__module__.startswith("torch.nn.")
    if plain and isinstance(module, (Conv, nn.Linear)) and getattr(module, "groups", 1) == 1:
        # The same as inputs of zeros, also for code that uses the weight without calling the layer.
        module.weight.index_fill_(0 if getattr(module, "transposed", False) else 1, gone.to(module.weight.device), 0)
        return
    dim = -1 if isinstance(module, nn.Linear) else 1

    def zero(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (_replace(flow, inputs[0], lambda: inputs[0].index_fill(dim, gone.to(inputs[0].device), 0)),)

    module.register_forward_pre_hook(zero)


def _mask_norm(norm: nn.Module, gone: Tensor, flow: ChannelFlow | None) -> None:
    """Let a norm over channels measure and normalise all channels but `gone`, whose outputs become zeros."""
    width = channels_of(norm, "out")
    stays = torch.ones(width, dtype=torch.bool)
    stays[gone] = False
    keep = stays.nonzero().flatten()
    small = copy_network(norm)
    narrow_module(small, "out", keep)

    def normalise_kept(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        where = keep.to(output.device)

        def normalise() -> Tensor:
            dim = _channel_dim(norm, inputs[0], output)
            return torch.zeros_like(output).index_copy(dim, where, small(inputs[0].index_select(dim, where)))

        return _replace(flow, output, normalise)

    norm.register_forward_hook(normalise_kept)


def _channel_dim(norm: nn.Module, inputs: Tensor, output: Tensor) -> int:
    """The dimension of a norm's channels: a GroupNorm and torchvision's LayerNorm2d have them second, others last."""
    width = channels_of(norm, "out")
    if not isinstance(norm, nn.LayerNorm) or output.shape[-1] != width:
        return 1
    if type(norm) is nn.LayerNorm or output.shape[1] != width:
        return -1
    plain = nn.functional.layer_norm(inputs, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return -1 if torch.allclose(plain, output, rtol=1e-3, atol=1e-5) else 1

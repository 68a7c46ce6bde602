"""Physical removal of channels: a function for each kind of module, which slices its parameters in place.

A module whose input and output channels go together (norms, activations with weights, depthwise convolutions) has one
side, `out`. A module with methods `keep_in(indices)` and `keep_out(indices)` of its own is narrowed by these.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Side = Literal["in", "out"]
Norm = nn.modules.batchnorm._NormBase  # batch and instance norms
Conv = nn.modules.conv._ConvNd
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (Conv, nn.Linear)
SHAPED_NORMS = (nn.LayerNorm, nn.RMSNorm)  # over the last dimensions, whose sizes they hold
CHANNEL_NORMS = (nn.GroupNorm, *SHAPED_NORMS)  # those that measure channels together
# Dictionaries of nn.Module by the identities of the hooks, and of how they are called; torch has no other access.
_FORWARD_HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


def is_depthwise(module: nn.Module) -> bool:
    """A convolution in which each input channel has filters of its own: it goes together with what they put out."""
    if not isinstance(module, Conv) or not module.groups == module.in_channels > 1:
        return False
    return module.out_channels == module.in_channels or not module.transposed


def is_transposed_in_groups(module: nn.Module) -> bool:
    """A transposed convolution in groups, whose weight (C, N / groups, ...) has no dimension for all outputs."""
    return isinstance(module, Conv) and module.transposed and module.groups > 1 and not is_depthwise(module)


def weight_dims(*, transposed: bool, depthwise: bool) -> tuple[int, int]:
    """The dimensions of outputs and of inputs of a convolution's or linear layer's weight; a depthwise one has one."""
    if depthwise:
        return 0, 0
    return (1, 0) if transposed else (0, 1)


def layer_dims(module: nn.Module) -> tuple[int, int]:
    """`weight_dims` of a convolution or linear module."""
    return weight_dims(transposed=getattr(module, "transposed", False), depthwise=is_depthwise(module))


def channels_of(module: nn.Module, side: Side) -> int:
    """The number of channels of a module on one side."""
    if isinstance(module, nn.Linear):
        return module.in_features if side == "in" else module.out_features
    if isinstance(module, Norm):
        return module.num_features
    if isinstance(module, nn.GroupNorm):
        return module.num_channels
    if isinstance(module, SHAPED_NORMS):
        return int(module.normalized_shape[norm_dim(module)])
    if isinstance(module, nn.PReLU):
        return module.num_parameters
    return int(getattr(module, "in_channels" if side == "in" else "out_channels"))


def norm_dim(module: nn.Module) -> int:
    """The dimension of a norm's channels in its weight, from the end: of `LayerNorm([C, 1, 1])` the third last."""
    if isinstance(module, SHAPED_NORMS):
        sizes = module.normalized_shape
        return next((dim for dim in range(-len(sizes), 0) if sizes[dim] > 1 and math.prod(sizes) == sizes[dim]), -1)
    return -1


def narrow_module(module: nn.Module, side: Side, keep: Tensor) -> None:
    """Keep only the channels `keep` (ascending indices) on one side of `module`."""
    if hasattr(module, "keep_out"):
        getattr(module, f"keep_{side}")(keep)
        return
    for kind, function in _NARROW.items():
        if isinstance(module, kind):
            function(module, side, keep)
            return
    raise AssertionError(f"{type(module).__name__} has no channels that could be removed")


def replace_module(network: nn.Module, name: str, new: nn.Module, *, move_hooks: bool = True) -> None:
    """Replace the module called `name` by `new`, under all names that it has; its forward hooks become those of `new`.

    A hook may be part of what the network computes: it scales an output, or keeps a feature for another layer.
    """
    old = network.get_submodule(name)
    if move_hooks:
        for hooks in _FORWARD_HOOKS:
            getattr(new, hooks).update(getattr(old, hooks))
            getattr(old, hooks).clear()
    for parent in list(network.modules()):
        for child, module in list(parent._modules.items()):  # named_children names a module only once
            if module is old:
                setattr(parent, child, new)


def slice_tensor(owner: nn.Module, name: str, dim: int, keep: Tensor) -> None:
    """Replace a parameter or buffer by its slices `keep` along `dim`; nothing happens where it is None."""
    tensor = getattr(owner, name, None)
    if tensor is None:
        return
    sliced = tensor.detach().index_select(dim, keep.to(tensor.device))
    if isinstance(tensor, nn.Parameter):
        setattr(owner, name, nn.Parameter(sliced, requires_grad=tensor.requires_grad))
    else:
        setattr(owner, name, sliced)


def _narrow_conv(module: Conv, side: Side, keep: Tensor) -> None:
    if is_depthwise(module):
        filters_per_channel = module.out_channels // module.in_channels
        slice_tensor(module, "weight", 0, keep)
        slice_tensor(module, "bias", 0, keep)
        module.out_channels = len(keep)
        module.in_channels = module.groups = len(keep) // filters_per_channel
    elif side == "out":
        _slice_weight(module, side, keep)
        slice_tensor(module, "bias", 0, keep)
        module.out_channels = len(keep)
    else:
        _slice_weight(module, side, keep)
        module.in_channels = len(keep)


def _slice_weight(module: Conv, side: Side, keep: Tensor) -> None:
    """Of a convolution in groups, each group keeps channels of its own, equally many."""
    if module.groups == 1 or module.transposed == (side == "in"):
        slice_tensor(module, "weight", layer_dims(module)[side == "in"], keep)
        return
    # The weight has one column per channel of a group, so that every group selects columns by its own offsets.
    per_group = channels_of(module, side) // module.groups
    weights = module.weight.detach().unflatten(0, (module.groups, -1))  # (groups, N/groups, C/groups, *kernel)
    offsets = (keep % per_group).unflatten(0, (module.groups, -1)).to(weights.device)
    narrowed = [group.index_select(1, columns) for group, columns in zip(weights, offsets, strict=True)]
    module.weight = nn.Parameter(torch.cat(narrowed), requires_grad=module.weight.requires_grad)


def _narrow_linear(module: nn.Linear, side: Side, keep: Tensor) -> None:
    if side == "out":
        slice_tensor(module, "weight", 0, keep)
        slice_tensor(module, "bias", 0, keep)
        module.out_features = len(keep)
    else:
        slice_tensor(module, "weight", 1, keep)
        module.in_features = len(keep)


def _narrow_norm(module: Norm | nn.GroupNorm | nn.LayerNorm | nn.RMSNorm, side: Side, keep: Tensor) -> None:
    dim = norm_dim(module)
    for name in ("weight", "bias", "running_mean", "running_var"):
        slice_tensor(module, name, dim, keep)
    if isinstance(module, SHAPED_NORMS):
        sizes = list(module.normalized_shape)
        sizes[dim] = len(keep)
        module.normalized_shape = tuple(sizes)
    elif isinstance(module, nn.GroupNorm):
        if module.num_groups == module.num_channels:
            module.num_groups = len(keep)
        module.num_channels = len(keep)
    else:
        module.num_features = len(keep)


def _narrow_prelu(module: nn.PReLU, side: Side, keep: Tensor) -> None:
    slice_tensor(module, "weight", 0, keep)
    module.num_parameters = len(keep)


_NARROW: dict[type[nn.Module], Callable[..., None]] = {
    Conv: _narrow_conv,
    nn.Linear: _narrow_linear,
    Norm: _narrow_norm,
    nn.GroupNorm: _narrow_norm,
    nn.LayerNorm: _narrow_norm,
    nn.RMSNorm: _narrow_norm,
    nn.PReLU: _narrow_prelu,
}

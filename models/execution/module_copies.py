"""Deep copies of networks that keep tensors computed by a forward pass, which torch alone refuses to copy."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def copy_module(network: Network) -> Network:
    """A deep copy; attributes that autograd computed become plain tensors in it.

    `nn.utils.weight_norm` and the like keep the weight as such an attribute, and compute it anew in every call.
    """
    return copy.deepcopy(network, _copied_attributes(network))


def copy_on_write(network: Network) -> Network:
    """The same as `copy_module`, but a tensor takes memory only once it, or the one it was copied from, is written.

    For copies that live shortly: of a large network many run once, and few parameters of each are changed.
    """
    memo = _copied_attributes(network)
    for parameter in network.parameters():
        if type(parameter) is nn.Parameter and _fills_memory(parameter):
            memo[id(parameter)] = nn.Parameter(parameter.data._lazy_clone(), parameter.requires_grad)
    for buffer in network.buffers():
        if type(buffer) is Tensor and not buffer.requires_grad and _fills_memory(buffer):
            memo[id(buffer)] = buffer._lazy_clone()
    return copy.deepcopy(network, memo)


def _fills_memory(tensor: Tensor) -> bool:
    """Whether a tensor has memory for itself: of a part (a recurrent layer's weight), all would be copied."""
    if tensor.layout != torch.strided or not tensor.is_cpu:
        return False
    return tensor.untyped_storage().nbytes() == tensor.nbytes


def _copied_attributes(network: nn.Module) -> dict[int, object]:
    """What `deepcopy` is to take for copies, by the originals' ids: tensors that autograd computed, and empty mappings.

    A module has ten of these (hooks, parameters it has none of), on which `deepcopy` would spend most of its time.
    """
    memo: dict[int, object] = {}
    for module in network.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor):
                if not value.is_leaf:
                    memo[id(value)] = value.detach().clone()
            elif type(value) in (dict, OrderedDict) and not value:
                memo[id(value)] = type(value)()
    return memo

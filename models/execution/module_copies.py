"""Deep copies of networks that keep tensors computed by a forward pass, which torch alone refuses to copy."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def copy_module(network: Network) -> Network:
    """A deep copy; attributes that autograd computed become plain tensors in it.

    `nn.utils.weight_norm` and the like keep the weight as such an attribute, and compute it anew in every call.
    """
    return copy.deepcopy(network, _detached_attributes(network))


def copy_on_write(network: Network) -> Network:
    """The same as `copy_module`, but a parameter takes memory only once it, or the one it was copied from, is written.

    For copies that live shortly: of a large network many run once, and few parameters of each are changed.
    """
    memo = _detached_attributes(network)
    for parameter in network.parameters():
        if _fills_memory(parameter):
            memo[id(parameter)] = nn.Parameter(parameter.data._lazy_clone(), parameter.requires_grad)
    return copy.deepcopy(network, memo)


def _fills_memory(parameter: nn.Parameter) -> bool:
    """Whether a parameter has memory for itself: of a part (a recurrent layer's weight), all would be copied."""
    if type(parameter) is not nn.Parameter or parameter.layout != torch.strided or not parameter.is_cpu:
        return False
    return parameter.untyped_storage().nbytes() == parameter.nbytes


def _detached_attributes(network: nn.Module) -> dict[int, object]:
    memo: dict[int, object] = {}
    for module in network.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return memo

"""Deep copies of networks that keep tensors computed by a forward pass, which torch alone refuses to copy."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def copy_module(network: Network) -> Network:
    """A deep copy; attributes that autograd computed become plain tensors in it.

    `nn.utils.weight_norm` and the like keep the weight as such an attribute, and compute it anew in every call.
    """
    memo: dict[int, object] = {}
    for module in network.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(network, memo)

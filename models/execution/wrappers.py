"""Wrappers around a network that compression has no use for, taken off; the layers inside are what is compressed."""

from __future__ import annotations

from torch import nn

# DataParallel and its like hold the network as `.module`. By name, because each is imported from another place and
# some need a process group only to be named; the attribute is checked as well.
_MODULE_WRAPPERS = frozenset({"DataParallel", "DistributedDataParallel", "AveragedModel", "FullyShardedDataParallel"})
_COMPILED = "OptimizedModule"  # what torch.compile returns, with the network as `._orig_mod`


def unwrap_network(network: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The network without wrappers around it or around one of its layers, and the kinds that were taken off.

    Layers are replaced in place: give a network of one's own, or a copy.
    """
    kinds: dict[str, None] = {}
    network = _peel_wrappers(network, kinds)
    for module in list(network.modules()):
        for name, child in list(module._modules.items()):
            if child is not None and _wrapped_network(child) is not None:
                setattr(module, name, _peel_wrappers(child, kinds))
        if getattr(module, "_compiled_call_impl", None) is not None:  # `network.compile()`, in place
            module._compiled_call_impl = None
            kinds["torch.compile"] = None
    return network, tuple(kinds)


def _peel_wrappers(module: nn.Module, kinds: dict[str, None]) -> nn.Module:
    while (inner := _wrapped_network(module)) is not None:
        kinds["torch.compile" if type(module).__name__ == _COMPILED else type(module).__name__] = None
        module = inner
    return module


def _wrapped_network(module: nn.Module) -> nn.Module | None:
    """What a wrapper holds; None if the module is no wrapper."""
    kind = type(module).__name__
    name = "module" if kind in _MODULE_WRAPPERS else "_orig_mod" if kind == _COMPILED else None
    inner = None if name is None else getattr(module, name, None)
    return inner if isinstance(inner, nn.Module) else None

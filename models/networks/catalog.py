"""Networks by name: ours, torchvision's, those of installed packages, and a user's own `path/to/file.py:function`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from models.errors import UserError, unknown_name
from models.networks.torchvision_import import import_torchvision
from models.networks.torchvision_names import torchvision_names
from models.registry import Registry
from models.user.code import call_user, is_user_spec, load_function
from models.user.spec_names import is_given_network

if TYPE_CHECKING:  # names are listed without torch
    from torch import nn


class Builder(Protocol):
    """Builds a network with fresh weights for images of `channels` channels."""

    def __call__(self, *, classes: int, channels: int) -> nn.Module: ...


def _read_builder(name: str, function: Any) -> Builder:
    """A function of an installed package, given as much as it takes."""
    if not callable(function):
        raise UserError(f"network {name} is a {type(function).__name__}; it must be a function that builds a network")
    return partial(_build_with_accepted, function)


_NETWORKS: Registry[Builder] = Registry(
    "network", package="models.networks", group="ratio_search.networks", read_record=_read_builder
)

# Auxiliary heads are of no use after training; saying how to initialise avoids a warning.
_TORCHVISION_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}
_TORCHVISION_CHANNELS = 3


def register(name: str) -> Callable[[Builder], Builder]:
    """Make a builder known under `name`; a name can be taken only once."""

    def record(builder: Builder) -> Builder:
        _NETWORKS.add(name, builder)
        return builder

    return record


def own_names() -> list[str]:
    """The names that this package defines itself."""
    return _NETWORKS.own_names()


def network_names() -> list[str]:
    """Ours and those of installed packages, then torchvision's classification networks."""
    return [*_NETWORKS.names(), *torchvision_names()]


def pin_network(name: str) -> str:
    """What a task's fingerprint holds: the network of an installed package with a digest of its content."""
    return _NETWORKS.pin(name)


def build_network(spec: str, *, classes: int, channels: int = 3) -> nn.Module:
    """A network with fresh weights; UserError for an unknown name or for images that it does not take."""
    if is_user_spec(spec):
        return _build_users_network(spec, classes, channels)
    if is_given_network(spec):
        from models.user.given_networks import given_network

        return given_network(spec)
    if spec in _NETWORKS.names():
        return _NETWORKS.get(spec)(classes=classes, channels=channels)
    if spec not in torchvision_names():
        raise unknown_name("network", spec, network_names())
    if channels != _TORCHVISION_CHANNELS:
        raise UserError(
            f"network {spec} takes images of {_TORCHVISION_CHANNELS} channels but the data has {channels}; "
            f"use one of {', '.join(own_names())} or a network of your own as path/to/file.py:function"
        )
    builders = import_torchvision().models  # here, because it takes a while to import and our own networks do without
    return builders.get_model(spec, weights=None, num_classes=classes, **_TORCHVISION_OPTIONS.get(spec, {}))


def _build_users_network(spec: str, classes: int, channels: int) -> nn.Module:
    from torch import nn

    function = load_function(spec, "network")
    network = call_user(spec, function, **_accepted_arguments(function, classes, channels))
    if not isinstance(network, nn.Module):
        raise UserError(f"network {spec} returned a {type(network).__name__}; it must return a torch.nn.Module")
    return network


def _build_with_accepted(function: Callable[..., nn.Module], *, classes: int, channels: int) -> nn.Module:
    return function(**_accepted_arguments(function, classes, channels))


def _accepted_arguments(function: Callable[..., Any], classes: int, channels: int) -> dict[str, Any]:
    """Of what is known the part that the signature names; a bare **kwargs is given the number of classes."""
    offered = {"classes": classes, "num_classes": classes, "channels": channels, "in_channels": channels}
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a callable without a readable signature
        return {}
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if any(p.kind is p.VAR_KEYWORD for p in parameters) and "classes" not in named:
        named.add("num_classes")
    return {name: value for name, value in offered.items() if name in named}

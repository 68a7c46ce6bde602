"""A method's record and how it is made; options of a method that is part of another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from methods.method_info import MethodInfo
from models.user.pinned_code import code_label

if TYPE_CHECKING:  # a record is read without torch
    from torch import nn

    from methods.base import Compressor
    from models.execution.inputs import Example

Factory = Callable[["nn.Module", "Example", Mapping[str, Any]], "Compressor"]
MethodRecord = tuple[MethodInfo, Factory]


def joint_options(infos: Sequence[MethodInfo]) -> dict[str, Any]:
    """The options of several methods with their defaults, each under its method's name: `kse.alpha`."""
    return {_qualified(info, option): default for info in infos for option, default in info.options.items()}


def options_of(info: MethodInfo, options: Mapping[str, Any]) -> dict[str, Any]:
    """Of the options of several methods, those of one."""
    return {option: options[_qualified(info, option)] for option in info.options}


def _qualified(info: MethodInfo, option: str) -> str:
    return option if "." in option else f"{code_label(info.name)}.{option}"


def bind_in_turn(
    records: Sequence[MethodRecord], network: nn.Module, example: Example, options: Mapping[str, Any]
) -> list[Compressor]:
    """Each method bound to the network that the one before works on: it may have made some layers plain."""
    bound = []
    for info, factory in records:
        bound.append(factory(network, example, options_of(info, options)))
        network = bound[-1].network
    return bound

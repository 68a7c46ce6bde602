"""Methods by name. A method's file calls `register`; every file of this package is looked at once."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from torch import Tensor, nn

from methods.base import Compressor, MethodInfo
from models.errors import UserError, unknown

Factory = Callable[[nn.Module, Tensor, Mapping[str, Any]], Compressor]
_RECORDS: dict[str, tuple[MethodInfo, Factory]] = {}


def register(info: MethodInfo, factory: Factory) -> None:
    """Make a method known; a name can be taken only once."""
    if info.name in _RECORDS:
        raise ValueError(f"a method named {info.name!r} is registered already")
    _RECORDS[info.name] = (info, factory)


@cache
def _load_all() -> None:
    package = importlib.import_module("methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"methods.{module.name}")


def methods() -> dict[str, MethodInfo]:
    """Every registered method, by name."""
    _load_all()
    return {name: info for name, (info, _) in sorted(_RECORDS.items())}


def method_info(name: str) -> MethodInfo:
    """The record of one method; UserError with the closest names if there is none."""
    known = methods()
    if name not in known:
        raise unknown("method", name, known)
    return known[name]


def create(name: str, network: nn.Module, example: Tensor, options: Mapping[str, Any] | None = None) -> Compressor:
    """Bind method `name` to `network`; unknown options are refused."""
    info = method_info(name)
    given = dict(options or {})
    for option in given:
        if option not in info.options:
            raise (
                unknown(f"option of {name}", option, info.options)
                if info.options
                else UserError(f"method {name} takes no options, not {option!r}")
            )
    return _RECORDS[name][1](network, example, {**info.options, **given})

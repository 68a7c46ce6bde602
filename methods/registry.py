"""Methods by name. A method's file calls `register`; every file of this package is looked at once.

`a+b` is a method as well, where a and b are and their records say that they go together (`compose.py`).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import Tensor, nn

from methods.base import Compressor, MethodInfo
from methods.compose import Factory, composed
from models.errors import UserError, unknown

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
    """The record of one method or composition; UserError with the closest names if there is none."""
    return _record(name)[0]


def _record(name: str) -> tuple[MethodInfo, Factory]:
    known = methods()
    if "+" in name:
        parts = name.split("+")
        for part in parts:
            if part not in known:
                raise unknown("method", part, known)
        return composed([_RECORDS[part] for part in parts], known.values())
    if name not in known:
        raise unknown("method", name, known)
    return _RECORDS[name]


def create(name: str, network: nn.Module, example: Tensor, options: Mapping[str, Any] | None = None) -> Compressor:
    """Bind method `name` to `network`; unknown options are refused."""
    info, factory = _record(name)
    given = dict(options or {})
    for option in given:
        if option not in info.options:
            raise (
                unknown(f"option of {name}", option, info.options)
                if info.options
                else UserError(f"method {name} takes no options, not {option!r}")
            )
    return factory(network, example, {**info.options, **given})

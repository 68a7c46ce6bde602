"""Methods by name: those of this package, of installed packages, and of a user's own files (`models.registry`).

`a+b` is a method as well, where a and b are and their records say that they go together (`compose.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from methods.base import Compressor, MethodInfo
from methods.compose import MethodRecord, compose_records, split_parts
from models.errors import UserError, unknown_name
from models.registry import Registry
from models.user.code import is_user_spec
from models.user.pinned_code import code_identity, code_label, split_digest


def _read_record(name: str, found: Any) -> MethodRecord:
    """The record of a class in a user's file or an installed package."""
    if not (isinstance(found, type) and issubclass(found, Compressor)):
        raise UserError(f"method {name} is no compression method: it must be a subclass of methods.base.Compressor")
    info = getattr(found, "info", None)
    if not isinstance(info, MethodInfo):
        raise UserError(f"method {name} does not say what it is: give the class info = methods.base.MethodInfo(...)")
    if inspect.isabstract(found):
        raise UserError(f"method {name} does not define {', '.join(sorted(found.__abstractmethods__))}")
    return replace(info, name=name), found


_METHODS: Registry[MethodRecord] = Registry(
    "method", package="methods", group="ratio_search.methods", read_record=_read_record
)


def register(info: MethodInfo, factory: Any) -> None:
    """Make a method known; a name can be taken only once."""
    _METHODS.add(info.name, (info, factory))


def methods() -> dict[str, MethodInfo]:
    """Every method that goes by a name."""
    return {name: info for name, (info, _) in _METHODS.records().items()}


def method_info(name: str) -> MethodInfo:
    """The record of one method or composition; UserError with the closest names if there is none."""
    return _find_record(name)[0]


def identify_method(name: str) -> tuple[str, dict[str, str]]:
    """What configurations and outcomes call a method, and where those of its parts are that lie in a user's files.

    `l1+my/method.py:MyMethod` becomes `l1+MyMethod@1f3a5c7e9b2d` and
    `{"MyMethod@1f3a5c7e9b2d": "/home/me/my/method.py:MyMethod@1f3a5c7e9b2d"}`. UserError for an unknown name.
    """
    pinned = [_METHODS.pin(part) for part in split_parts(name)]
    identity = "+".join(code_identity(part) for part in pinned)
    method_info(identity)
    return identity, {code_identity(part): part for part in pinned if is_user_spec(part)}


def locate_methods(files: Mapping[str, str]) -> None:
    """Remember where a user's methods are: identity -> pinned name, as from `identify_method`."""
    for pinned in files.values():
        _METHODS.locate(pinned)


def typed_method(identity: str, files: Mapping[str, str]) -> str:
    """The name as a user types it: with the files' places, without digests."""
    return "+".join(split_digest(files.get(part, part))[0] for part in split_parts(identity))


def method_label(identity: str) -> str:
    """What options are called after: `l1+MyMethod`."""
    return "+".join(code_label(part) for part in split_parts(identity))


def check_reachable(name: str) -> None:
    """UserError for a method that other processes cannot know by its name."""
    for part in split_parts(name):
        _METHODS.check_reachable(part)


def _find_record(name: str) -> MethodRecord:
    parts = split_parts(name)
    records = [_METHODS.get(part) for part in parts]
    return records[0] if len(parts) == 1 else compose_records(records, methods().values())


def create(name: str, network: nn.Module, example: Tensor, options: Mapping[str, Any] | None = None) -> Compressor:
    """Bind method `name` to `network`; unknown options are refused."""
    info, factory = _find_record(name)
    given = dict(options or {})
    for option in given:
        if option not in info.options:
            raise (
                unknown_name(f"option of {info.name}", option, info.options)
                if info.options
                else UserError(f"method {info.name} takes no options, not {option!r}")
            )
    return factory(network, example, {**info.options, **given})

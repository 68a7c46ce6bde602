"""Methods by name: those of this package, of installed packages, and of a user's own files (`models.registry`).

`a+b` and `a-or-b` are methods as well if the records of a and b say that they go together (`joint_records.py`). Records
are read without torch; the code of a method is imported where `create` binds it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from methods.joint_records import choose_records, compose_records
from methods.method_info import MethodInfo
from methods.method_names import method_label as method_label
from methods.method_names import rename_parts, split_name, split_parts
from methods.record import MethodRecord
from models.errors import UserError, unknown_name
from models.registry import Registry
from models.user.code import is_user_spec
from models.user.pinned_code import code_identity, split_digest

if TYPE_CHECKING:
    from torch import nn

    from methods.base import Compressor
    from models.execution.inputs import Example


def _read_record(name: str, method: Any) -> MethodRecord:
    """The record of a class in a user's file or an installed package."""
    from methods.base import Compressor  # which the class, being loaded, has imported

    if not (isinstance(method, type) and issubclass(method, Compressor)):
        raise UserError(f"method {name} is no compression method: it must be a subclass of methods.base.Compressor")
    info = getattr(method, "info", None)
    if not isinstance(info, MethodInfo):
        raise UserError(f"method {name} does not say what it is: give the class info = methods.base.MethodInfo(...)")
    if inspect.isabstract(method):
        raise UserError(f"method {name} does not define {', '.join(sorted(method.__abstractmethods__))}")
    return replace(info, name=name), method


_METHODS: Registry[MethodRecord] = Registry(
    "method", package="methods", group="ratio_search.methods", read_record=_read_record
)


def register(info: MethodInfo, factory: Any) -> None:
    """Add a method under its name, which must be free."""
    _METHODS.add(info.name, (info, factory))


def methods() -> dict[str, MethodInfo]:
    """The records of all methods that have a name, without compositions."""
    return {name: info for name, (info, _) in _METHODS.records().items()}


def method_info(name: str) -> MethodInfo:
    """The record of a method or composition; UserError with the closest names if there is none."""
    return _find_record(name)[0]


def identify_method(name: str) -> tuple[str, dict[str, str]]:
    """The name of a method in configurations and outcomes, and the places of its components in a user's files.

    `l1+my/method.py:MyMethod` becomes `l1+MyMethod@1f3a5c7e9b2d` and
    `{"MyMethod@1f3a5c7e9b2d": "/home/me/my/method.py:MyMethod@1f3a5c7e9b2d"}`. UserError for an unknown name.
    """
    pinned = rename_parts(name, _METHODS.pin)
    identity = rename_parts(pinned, code_identity)
    method_info(identity)
    return identity, {code_identity(part): part for part in split_parts(pinned) if is_user_spec(part)}


def locate_methods(files: Mapping[str, str]) -> None:
    """Remember the places of a user's methods: identity -> pinned name, as from `identify_method`."""
    for pinned in files.values():
        _METHODS.locate(pinned)


def typed_method(identity: str, files: Mapping[str, str]) -> str:
    """The name as a user types it, with the paths of files and without digests."""
    return rename_parts(identity, lambda part: split_digest(files.get(part, part))[0])


def check_reachable(name: str) -> None:
    """UserError for a method that other processes cannot find by its name."""
    for component in split_parts(name):
        _METHODS.check_reachable(component)


def _find_record(name: str) -> MethodRecord:
    records = [
        choose_records(members) if len(members) > 1 else members[0]
        for members in ([_METHODS.get(part) for part in place] for place in split_name(name))
    ]
    return records[0] if len(records) == 1 else compose_records(records, methods().values())


def create(name: str, network: nn.Module, example: Example, options: Mapping[str, Any] | None = None) -> Compressor:
    """Bind method `name` to `network`; unknown options are refused."""
    info, factory = _find_record(name)
    chosen = dict(options or {})
    for option in chosen:
        if option not in info.options:
            raise (
                unknown_name(f"option of {info.name}", option, info.options)
                if info.options
                else UserError(f"method {info.name} takes no options, not {option!r}")
            )
    return factory(network, example, {**info.options, **chosen})

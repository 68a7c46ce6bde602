"""Groups of options: how a typer command and a Python function take them, and where their values are checked."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, ParamSpec, TypeVar, get_type_hints

import typer

from models.errors import unknown_name
from models.settings import naming_flags
from search.settings.bounds import check_setting

P = ParamSpec("P")
R = TypeVar("R")


class Group:
    """Options that belong together; a subclass is a dataclass with annotated fields and defaults."""

    def typed(self) -> dict[str, Any]:
        """The options as they were given, by their names."""
        return asdict(self)  # type: ignore[call-overload]

    def values(self) -> dict[str, Any]:
        """What a configuration is built from."""
        return self.typed()


def takes_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Let a typer command have parameters that are dataclasses: each field becomes an option of its own.

    Every option's value is checked before the command sees it.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters, groups = [], dict[str, type]()
    for name, parameter in inspect.signature(command).parameters.items():
        if is_dataclass(hints[name]):
            groups[name] = hints[name]
            parameters += _parameters(groups[name])
        else:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(command)
    def flat(**given: Any) -> None:
        for parameter in parameters:
            option = parameter.annotation.__metadata__[0]
            check_setting(flag_of(parameter.name, option), given[parameter.name], option.min, option.max)
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        with naming_flags():
            command(**given)

    shown = [parameter.replace(annotation=_without_range(parameter.annotation)) for parameter in parameters]
    flat.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return flat


def _without_range(annotation: Any) -> Any:
    """An option for typer, its range in the help alone: typer's own refusal does not name the value, and passes NaN."""
    option = copy.copy(annotation.__metadata__[0])
    if option.min is not None and option.max is not None:
        option.help = f"{option.help or ''} ({option.min:g} to {option.max:.10g})".strip()
    option.min = option.max = None
    return Annotated[annotation.__origin__, option]


def flag_of(name: str, option: Any) -> str:
    """`--batch-size`, as the command line calls an option; an argument goes by its name."""
    declared = (option.default, *(option.param_decls or ()))  # in Annotated, typer keeps the first name as default
    for text in declared:
        if isinstance(text, str) and text.startswith("--"):
            return text
    return name if isinstance(option, typer.models.ArgumentInfo) else f"--{name.replace('_', '-')}"


def keywords(*groups: type[Group]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a Python function with `**settings` take the options of these groups: checked, shown by `help`.

    Its own arguments are checked likewise: no empty text, no number that is not finite.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        own = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
        taken = {parameter.name for parameter in own}
        more = [p for group in groups for p in _parameters(group) if p.name not in taken]
        names = taken | {parameter.name for parameter in more}

        @wraps(function)
        def checked(*args: P.args, **given: P.kwargs) -> R:
            for name in given:
                if name not in names:
                    raise TypeError(f"{function.__name__}(): {unknown_name('keyword', name, names)}")
            for name, value in inspect.signature(function).bind_partial(*args, **given).arguments.items():
                if name in taken:
                    check_setting(name, value)
            return function(*args, **given)

        signature = inspect.signature(function)
        plain = [p.replace(annotation=p.annotation.__origin__) for p in more]
        checked.__signature__ = signature.replace(parameters=own + plain)  # type: ignore[attr-defined]
        lines = [f"    {p.name} = {p.default!r}: {p.annotation.__metadata__[0].help or ''}".rstrip(": ") for p in more]
        text = inspect.cleandoc(function.__doc__ or "")
        checked.__doc__ = "\n".join([text, "", "Settings, as on the command line:", *lines]) if more else text
        return checked

    return decorate


def settings_of(group: type[Group], given: Mapping[str, Any]) -> dict[str, Any]:
    """A group's values from keywords, at their defaults where not given.

    Where the command line takes text, Python may give numbers, paths, and sequences of them; `options` may be a dict.
    """
    hints = get_type_hints(group)
    forms: dict[Any, Callable[[Any], Any]] = {str: _as_text, str | None: _as_text, list[str] | None: _as_texts}
    values = {name: forms.get(hints[name], _same)(value) for name, value in given.items() if name in hints}
    for parameter in _parameters(group):
        if parameter.name in values:
            option = parameter.annotation.__metadata__[0]
            check_setting(parameter.name, values[parameter.name], option.min, option.max)
    return group(**values).values()


def _same(value: Any) -> Any:
    return value


def _as_texts(value: Any) -> list[str] | None:
    """A repeatable option: one value, several, or a mapping for NAME=VALUE."""
    if isinstance(value, Mapping):
        return [f"{name}={each if isinstance(each, str) else json.dumps(each)}" for name, each in value.items()]
    if isinstance(value, list | tuple):
        return [str(each) for each in value]
    return None if value is None else [str(value)]


def _as_text(value: Any) -> str | None:
    if isinstance(value, list | tuple):
        return ",".join(str(each) for each in value)
    return None if value is None else str(value)


def _parameters(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(group)
    ]

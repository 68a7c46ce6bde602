"""Settings as options and arguments of typer commands.

Typer is given text options alone: it would refuse a value in words of its own, without the value, and pass NaN.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from models.settings import naming_flags
from search.settings.setting import REQUIRED, Setting

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]

_METAVARS = {int: "INTEGER", float: "FLOAT", str: "TEXT"}


def takes_settings(settings: Mapping[str, Setting]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command with `**given` have an option for each setting; it is handed those that were given."""

    def decorate_command(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        parameters = [_typer_parameter(setting) for setting in settings.values()]
        for name, parameter in inspect.signature(command).parameters.items():
            if parameter.kind is not parameter.VAR_KEYWORD:
                parameters.append(parameter.replace(annotation=hints[name], kind=parameter.KEYWORD_ONLY))

        @wraps(command)
        def with_options(**given: Any) -> None:
            # Typer has None or an empty list for what was not given: the setting's own default is left to the command.
            absent = [name for name in settings if given[name] in (None, [])]
            with naming_flags():
                command(**{name: value for name, value in given.items() if name not in absent})

        # Typer reads a command's options off its signature and its annotations.
        with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return with_options

    return decorate_command


def _choices(setting: Setting) -> tuple[str, ...]:
    """The names that a value may be, where they are few."""
    return get_args(setting.element) if get_origin(setting.element) is Literal else ()


def _typer_parameter(setting: Setting) -> inspect.Parameter:
    """A parameter that typer turns into the setting's option; None says that it was not given."""
    kind: Any = list[str] | None if setting.is_list and setting.option.repeatable else str | None
    flags = [setting.flag]
    metavar = "|".join(_choices(setting)) or setting.option.metavar or _METAVARS.get(setting.element)
    if setting.is_list and not setting.option.repeatable and not setting.option.metavar:
        metavar = f"{metavar},..."
    if setting.kind is bool:
        kind, metavar = bool | None, None
        # Only what is on by itself, or depends on the data, needs an option that turns it off.
        if setting.default is not False:
            flags = [f"{setting.flag}/--no-{setting.flag[2:]}"]
    declared: Any = typer.Option(*flags, metavar=metavar, help=setting.help, show_default=False)
    if setting.option.argument:
        declared = typer.Argument(help=setting.help, show_default=False)
    default = None
    if setting.default is REQUIRED:
        kind, default = str, REQUIRED
    return inspect.Parameter(
        setting.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, declared]
    )

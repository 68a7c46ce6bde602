"""Settings as keywords of Python functions: checked, with their defaults, and shown by `help`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import ParamSpec, TypeVar

from models.errors import unknown_name
from search.settings.setting import REQUIRED, Setting, read_settings

P = ParamSpec("P")
R = TypeVar("R")


def takes_keywords(settings: Mapping[str, Setting]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function with `**values` take these settings as keywords; it is handed a value for each, checked.

    Parameters of its own that go by the name of a setting are checked as well.
    """

    def decorate_function(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        names = [parameter.name for parameter in parameters]
        listed = {name: setting for name, setting in settings.items() if name not in names}

        @wraps(function)
        def call_checked(*args: P.args, **given: P.kwargs) -> R:
            # A misspelt name first: it may be the one that would be missed below.
            for name in given:
                if name not in names and name not in listed:
                    raise TypeError(f"{function.__name__}(): {unknown_name('keyword', name, [*names, *listed])}")
            bound = signature.bind(*args, **{name: value for name, value in given.items() if name in names})
            for name in bound.arguments:
                if name in settings:
                    bound.arguments[name] = settings[name].read_value(bound.arguments[name])
            for name, setting in listed.items():
                if setting.default is REQUIRED and name not in given:
                    raise TypeError(f"{function.__name__}() is not given its keyword {name!r}")
            return function(*bound.args, **bound.kwargs, **read_settings(listed, given))

        keywords = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=setting.default, annotation=setting.field.annotation
            )
            for name, setting in listed.items()
        ]
        # `help` and editors show the settings as if the function had them in its own signature.
        call_checked.__signature__ = signature.replace(parameters=parameters + keywords)  # type: ignore[attr-defined]
        setting_lines = [f"    {name} = {setting.default!r}: {setting.help}" for name, setting in listed.items()]
        text = inspect.cleandoc(function.__doc__ or "")
        call_checked.__doc__ = (
            "\n".join([text, "", "Settings, as on the command line:", *setting_lines]) if setting_lines else text
        )
        return call_checked

    return decorate_function

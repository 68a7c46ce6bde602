"""The command line that a configuration stands for: what a result names as the way to it.

A network that was given as an object has no name that a command line could use: there it is a call in Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from methods.registry import method_label, typed_method
from models.paths import user_path
from models.user.spec_names import is_given_network
from search.ledger.location import usual_ledger
from search.settings.commands import COMPARE, SEARCH
from search.settings.config import RunConfig
from search.settings.setting import Setting
from search.settings.shell import option_words, path_argument, shell_line

PROGRAM = ("python", "run_search.py")
ALWAYS_PRINTED = ("methods", "strategies")


def resume_command(config: RunConfig) -> str:
    """What goes on with a run."""
    folder, command = str(config.folder), "compare" if config.comparison else "search"
    if is_given_network(config.task.network):
        subject = "network" if config.task.task is None else "task=task"
        return f"api.{command}({subject}, resume={folder!r})"
    return shell_line([*PROGRAM, command, *option_words("--resume", folder)])


def export_command(config: RunConfig, pick: str) -> str:
    """What exports a candidate of a run."""
    folder = str(config.folder)
    if is_given_network(config.task.network):
        subject = "network" if config.task.task is None else "task"
        return f"api.export({folder!r}, {subject}={subject})"
    to = option_words("--to", f"{folder}/export")
    return shell_line([*PROGRAM, "export", path_argument(folder), "--pick", pick, *to])


def run_command(config: RunConfig) -> str:
    """`python run_search.py search ...` or `compare ...` that asks for the same; what is at its default is left out.

    Where the ledger still knows the candidates nothing is trained; an empty ledger has them judged anew.
    """
    if is_given_network(config.task.network):
        return resume_command(config)
    command, settings = ("compare", COMPARE) if config.comparison else ("search", SEARCH)
    return shell_line([*PROGRAM, command, *_setting_words(config, settings)])


def _setting_words(config: RunConfig, settings: Mapping[str, Setting]) -> list[str]:
    """The options that give a configuration its values."""
    words = []
    for name, setting in settings.items():
        # Targets have several options: of FLOPs alone the short one, else the one that names its measures.
        if name == "targets":
            is_flops = all(target.measures == ("flops",) for target in config.targets)
            words += (setting if is_flops else settings["target"]).to_words(config.targets)
        if setting.owner is not RunConfig or not setting.option.printed:
            continue
        value = _value_of(config, setting)
        # Methods and strategies are printed even at their defaults, which a later version may change.
        if value != setting.default or setting.path[-1] in ALWAYS_PRINTED:
            words += setting.to_words(value)
    return words


def _value_of(config: RunConfig, setting: Setting) -> Any:
    """The value of a setting as it is given; None where it follows from others."""
    value: Any = config
    for name in setting.path:
        value = getattr(value, name)
    match setting.path:
        case ("options",):
            return {f"{method_label(method)}.{name}" if config.comparison else name: option
                    for method, options in value.items() for name, option in options.items()}  # fmt: skip
        case ("methods",) | ("strategies",):
            return tuple(typed_method(name, config.code) for name in value)
        case ("ledger",):
            return None if Path(value).absolute() == usual_ledger(config.results).absolute() else value
        case ("task", "network") | ("task", "data") if config.task.task is not None:
            return None
        case ("task", "search_fraction"):
            return None if value == setting.field.default else value
        case ("task", "data_root"):
            usual = user_path(setting.default)
            return setting.default if Path(value) == usual.absolute() else value
    return value

"""The command line that a configuration stands for: what a result names as the way to it.

A network that was given as an object has no name that a command line could use: there it is a call in Python.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from methods.registry import method_label, typed_method
from models.task import TaskConfig
from models.user.given_networks import is_given_network
from search.allocation.targets import Target
from search.candidate import Recipe
from search.settings.config import RunConfig
from search.settings.shell import option_words, path_argument, shell_line

PROGRAM = ("python", "run_search.py")


def command_line(arguments: Sequence[str]) -> str:
    """What was typed, as a line that can be pasted."""
    return shell_line([*PROGRAM, *arguments])


def resume_command(config: RunConfig) -> str:
    """What goes on with a run."""
    folder = str(config.folder)
    if is_given_network(config.task.network):
        return f"api.{_command(config)}(network, resume={folder!r})"
    return shell_line([*PROGRAM, _command(config), *option_words("--resume", folder)])


def export_command(config: RunConfig) -> str:
    """What exports the best of a run."""
    folder = str(config.folder)
    if is_given_network(config.task.network):
        return f"api.export({folder!r}, network=network)"
    pick = "best" if config.finalists else "knee"  # nothing has met the test set
    to = option_words("--to", f"{folder}/export")
    return shell_line([*PROGRAM, "export", path_argument(folder), "--pick", pick, *to])


def run_command(config: RunConfig) -> str:
    """`python run_search.py search ...`, or `compare ...`, that asks for the same candidates, without defaults.

    Where the ledger still knows them nothing is trained; an empty ledger has them judged anew.
    """
    if is_given_network(config.task.network):
        return resume_command(config)
    return shell_line([*PROGRAM, _command(config), *_task(config.task), *_search(config)])


def _command(config: RunConfig) -> str:
    return "compare" if config.comparison else "search"


def _task(task: TaskConfig) -> list[str]:
    usual = TaskConfig(network=task.network).with_absolute_paths()
    words = [*option_words("--network", task.network), *option_words("--data", task.data)]
    for field in ("weights", "data_root", "search_fraction", "split_seed", "train_images"):
        words += _changed(field, getattr(task, field), getattr(usual, field))
    for field in ("mean", "std"):
        numbers = getattr(task, field)
        words += [] if numbers is None else [f"--{field}={','.join(map(repr, numbers))}"]
    return words


def _search(config: RunConfig) -> list[str]:
    usual = RunConfig(task=config.task, name=config.name)
    methods, strategies = (
        ",".join(typed_method(name, config.code) for name in names) for names in (config.methods, config.strategies)
    )
    words = option_words("--methods" if config.comparison else "--method", methods)
    for method, options in config.options.items():
        prefix = f"{method_label(method)}." if config.comparison else ""
        for name, value in options.items():
            words += ["--option", f"{prefix}{name}={value if isinstance(value, str) else json.dumps(value)}"]
    words += option_words("--strategies" if config.comparison else "--strategy", strategies)
    words += _targets(config.targets)
    words += config.constraints.words()
    words += _recipe(config.recipe)
    words += ["--rungs", ",".join(f"{epochs:g}" for epochs in config.rungs)] if config.rungs else []
    for field in (
        "final_epochs",
        *(() if config.comparison else ("final_seeds", "finalists")),
        "trials",
        "reduction_factor",
        "scan_levels",
        "scan_images",
        "seed",
        "latency_batch",
    ):
        words += _changed(field, getattr(config, field), getattr(usual, field))
    for field in ("device", "time_limit", "results"):
        words += _changed(field, getattr(config, field), getattr(usual, field))
    if config.comparison:
        words += _changed("seeds", config.final_seeds, usual.final_seeds)
    elif not config.warm_start:
        words += ["--no-warm-start"]
    if Path(config.ledger).absolute() != (Path(config.results) / "ledger.db").absolute():
        words += option_words("--ledger", config.ledger)
    return words


def _targets(targets: tuple[Target, ...]) -> list[str]:
    flops = all(target.measures == ("flops",) for target in targets)
    return ["--target-flops" if flops else "--target", ",".join(map(str, targets))]


RECIPE_OPTIONS = {
    "epochs": "epochs",
    "batch_size": "batch_size",
    "lr": "lr",
    "schedule": "schedule",
    "weight_decay": "weight_decay",
    "distill_weight": "distill",
    "temperature": "temperature",
}


def _recipe(recipe: Recipe) -> list[str]:
    usual = Recipe()
    words = []
    for field, option in RECIPE_OPTIONS.items():
        words += _changed(option, getattr(recipe, field), getattr(usual, field))
    return words


def _changed(field: str, value: object, usual: object) -> list[str]:
    return [] if value == usual or value is None else option_words(f"--{field.replace('_', '-')}", str(value))

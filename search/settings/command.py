"""The command line that a configuration stands for: what a result names as the way to it.

A network that was given as an object has no name that a command line could use: there it is a call in Python.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from methods.registry import typed_method
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
    folder, command = str(config.folder), "compare" if config.comparison else "search"
    if is_given_network(config.task.network):
        return f"api.{command}(network, resume={folder!r})"
    return shell_line([*PROGRAM, command, *option_words("--resume", folder)])


def export_command(config: RunConfig) -> str:
    """What exports the best of a run."""
    folder = str(config.folder)
    if is_given_network(config.task.network):
        return f"api.export({folder!r}, network=network)"
    pick = "best" if config.finalists else "knee"  # nothing has met the test set
    to = option_words("--to", f"{folder}/export")
    return shell_line([*PROGRAM, "export", path_argument(folder), "--pick", pick, *to])


def search_command(config: RunConfig) -> str:
    """`python run_search.py search ...` that asks for the same candidates; what is at its default is left out.

    Where the ledger still knows them nothing is trained; an empty ledger has them judged anew.
    """
    if is_given_network(config.task.network):
        return resume_command(config)
    return shell_line([*PROGRAM, "search", *_task(config.task), *_search(config)])


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
    words = option_words("--method", typed_method(config.method, config.code))
    for name, value in config.method_options.items():
        words += ["--option", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    strategies = ",".join(typed_method(name, config.code) for name in config.strategies)
    words += [*option_words("--strategy", strategies), *_targets(config.targets)]
    words += config.constraints.words()
    words += _recipe(config.recipe)
    words += ["--rungs", ",".join(f"{epochs:g}" for epochs in config.rungs)] if config.rungs else []
    for field in (
        "final_epochs",
        "final_seeds",
        "finalists",
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
    words += [] if config.warm_start else ["--no-warm-start"]
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

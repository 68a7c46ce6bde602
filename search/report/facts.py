"""The facts of a run as its report puts them: task, method, recipe, protocol, time and machine."""

from __future__ import annotations

import shlex
from itertools import starmap

from models.task_config import TaskConfig
from models.tasks.loaded import LoadedTask
from models.tasks.metric import ACCURACY
from models.user.spec_names import data_name, network_name, task_name
from models.wording import plural
from search.engine.outcomes import RunOutcomes
from search.judge.drift import drift_notes
from search.settings.config import RunConfig


def run_facts(outcomes: RunOutcomes) -> dict[str, str]:
    """What the report names at its end, by what it is called there."""
    run, task, config = outcomes.prepared, outcomes.prepared.task, outcomes.prepared.config
    worker_seconds = sum(outcome.seconds for result in outcomes.methods for _, outcome in result.seen)
    facts = {
        **_subject_facts(config.task),
        f"{task.noun}s": f"{_part_sizes(task)}{image_words(config.task)}",
        "method": "; ".join(
            f"{method.config.method}, {plural(len(method.compressor.sites), 'site')}" for method in run.methods
        ),
        "recipe": recipe_words(config, compares_outputs=task.objective.has_outputs),
        "protocol": f"search {task.metric.name} ranks candidates{_tie_words(task)}; only finalists meet the test set, "
        "once per seed",
        "time": f"{outcomes.seconds:.0f} s on the clock, {worker_seconds:.0f} s of the workers",
        **outcomes.methods[0].facts,
    }
    gains = {method.config.method: method.compressor.info.gains for method in run.methods
             if not method.compressor.info.plain_layers}  # fmt: skip
    if gains:
        facts["gains"] = "; ".join(f"{name}: {text}" for name, text in gains.items())
    if config.constraints.constrains_sites:
        facts["constraints"] = shlex.join(config.constraints.option_words())
    if notes := drift_notes(task):
        facts["note"] = "; ".join(notes)
    if not outcomes.complete:
        facts["state"] = "stopped before it was finished"
    return facts


def _subject_facts(task: TaskConfig) -> dict[str, str]:
    if task.task is not None:
        return {"task": task_name(task.task), **({"weights": task.weights} if task.weights else {})}
    return {"network": network_name(task.network), "data": data_name(task.data), "weights": task.weights or "initial"}


def _part_sizes(task: LoadedTask) -> str:
    """Of a task that does not say how many inputs a split has, that one is left out."""
    sizes = {"fine-tune": len(task.tune), "search": task.count_inputs("search"), "test": task.count_inputs("test")}
    return ", ".join(f"{part} {size}" for part, size in sizes.items() if size)


def _tie_words(task: LoadedTask) -> str:
    if not task.objective.has_outputs:
        return ""
    return ", drift those within its noise" if task.metric == ACCURACY else ", drift those that are equal in it"


def recipe_words(config: RunConfig, *, compares_outputs: bool = True) -> str:
    """Every setting of the fine-tunes, since each of them decides the scores; no others.

    Args:
        compares_outputs: whether the task gives outputs to distil.
    """
    unused = {"epochs"} | (set() if compares_outputs else {"distill_weight", "temperature", "distill_features"})
    if config.task.task is not None:
        unused |= {"batch_size", "label_smoothing"}
    settings = config.recipe.model_dump(exclude=unused)
    if config.task.task is not None:
        settings["recalibration inputs"] = settings.pop("recalibration_images")
    epochs = f"{plural(config.recipe.epochs, 'epoch')}, finalists {config.final_recipe.epochs:g}"
    return f"{epochs}; SGD, {', '.join(starmap(_setting_words, settings.items()))}"


def image_words(task: TaskConfig) -> str:
    """The task's settings of its images that are not at their defaults, each after a semicolon."""
    settings = task.model_dump(exclude={"task", "network", "weights", "data", "data_root"}, exclude_defaults=True)
    return "".join(f"; {_setting_words(name, value)}" for name, value in settings.items())


def _setting_words(name: str, value: object) -> str:
    return f"{name.replace('_', ' ')} {f'{value:g}' if isinstance(value, float) else value}"

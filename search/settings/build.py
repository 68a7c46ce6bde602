"""Configurations from what a user typed: defaults filled in, every value checked, one sentence for each mistake."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from methods.registry import method_info
from models.errors import UserError, unknown_name
from models.networks.catalog import own_names
from models.paths import user_path
from models.task import TaskConfig
from models.user.code import is_user_spec
from models.user.given_networks import is_given_network
from models.user.spec_names import class_of
from search.allocation.constraints import Constraints, rules
from search.allocation.targets import parse_targets
from search.candidate import Recipe
from search.files.atomic import claim_folder
from search.judge.baseline import baseline_task
from search.ledger.location import public_location
from search.settings.bounds import MOST_EPOCHS, check_number
from search.settings.choices import list_names
from search.settings.config import RunConfig
from search.settings.users_code import identify_names, split_options

Model = TypeVar("Model", bound=BaseModel)

BASELINES = "baselines"  # folder below results
MOST_OPTION = 2.0**53  # of a method's option: where floats stop telling integers apart


def task(
    *,
    network: str | None,
    weights: str | None,
    data: str | None,
    mean: str | None,
    std: str | None,
    results: str,
    fresh: bool = False,
    **fields: Any,
) -> TaskConfig:
    """A task from its options; with none of network, weights and data, the embedded one with its baseline.

    Args:
        fresh: leave the weights as they are given, even if that is none.
    """
    if network is None and (weights or data):
        raise UserError("--weights and --data need a --network that they belong to")
    given = {"mean": _numbers(mean, "--mean"), "std": _numbers(std, "--std"), **fields}
    fields = {name: value for name, value in given.items() if value is not None}
    if network is None and not fresh:
        return make(
            TaskConfig, **{**baseline_task(Path(results) / BASELINES).model_dump(), **fields}
        ).with_absolute_paths()
    network = network or "small"
    chosen = make(TaskConfig, network=network, weights=weights, data=data or _usual_data(network), **fields)
    return chosen.with_absolute_paths()


def _usual_data(network: str) -> str:
    """The data a named network is made for; a user's own must say."""
    if is_user_spec(network):
        raise UserError(
            f"network {network} needs --data: a data set's name, imagefolder:DIR, npz:FILE or file.py:function"
        )
    if network == "small":
        return "digits"
    return "cifar10" if network in own_names() else "imagenet"


def _numbers(text: str | None, option: str, example: str = "0.485,0.456,0.406") -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"{option} {text!r} is not a comma-separated list of numbers, e.g. {example}") from None


def recipe(**fields: Any) -> Recipe:
    """A fine-tune recipe; UserError naming the first field that is off."""
    return make(Recipe, **fields)


def search_config(
    *,
    method: str,
    strategies: str,
    options: Sequence[str],
    task: TaskConfig,
    name: str | None,
    results: str = "results",
    **fields: Any,
) -> RunConfig:
    """A search from its options; unknown names, malformed targets and constraints are refused here.

    Args:
        options: `NAME=VALUE`.
    """
    (method,), names, code = identify_names([method], list_names(strategies, "strategy"))
    return _run_config(
        methods=(method,),
        strategies=names,
        code=code,
        options={method: _options(method, options)},
        task=task,
        name=lambda: run_name(name, task, method, Path(results)),
        results=results,
        **fields,
    )


def compare_config(
    *,
    methods: str,
    strategies: str,
    options: Sequence[str],
    seeds: int,
    task: TaskConfig,
    name: str | None,
    results: str = "results",
    **fields: Any,
) -> RunConfig:
    """A comparison from its options; unknown methods, strategies and malformed targets are refused here.

    Args:
        options: `METHOD.NAME=VALUE`.
        seeds: of every finalist.
    """
    names, asked, code = identify_names(list_names(methods, "method"), list_names(strategies, "strategy"))
    pairs = split_options(options, names)
    return _run_config(
        methods=names,
        strategies=asked,
        code=code,
        options={method: _options(method, pairs[method]) for method in names},
        task=task,
        name=lambda: run_name(name, task, "compare", Path(results)),
        results=results,
        comparison=True,
        warm_start=False,  # every strategy answers for itself
        final_seeds=seeds,
        finalists=1,
        **fields,
    )


def _run_config(
    *,
    targets: str,
    results: str,
    name: Callable[[], str],
    ledger: str | None = None,
    constraints: Mapping[str, Any] | None = None,
    rungs: str | None = None,
    **fields: Any,
) -> RunConfig:
    """What searches and comparisons have in common.

    Args:
        name: called once everything else was checked, since it may make the run's folder.
    """
    restricted = Constraints(**(constraints or {}))
    rules(restricted)
    epochs = _numbers(rungs, "--rungs", "0,0.25,1") or ()
    for number in epochs:
        check_number("--rungs", number, 0, MOST_EPOCHS)
    if epochs:
        fields["recipe"] = make(Recipe, **{**fields.get("recipe", Recipe()).model_dump(), "epochs": epochs[-1]})
    return make(
        RunConfig,
        constraints=restricted,
        targets=parse_targets(targets),
        ledger=_location(public_location(ledger) if ledger else str(Path(results) / "ledger.db")),
        results=results,
        name=name(),
        rungs=epochs,
        **fields,
    )


def _location(ledger: str) -> str:
    """A database URL as it is, a file by its absolute path: a run may be resumed from another folder."""
    return ledger if "://" in ledger else str(user_path(ledger).absolute())


def _options(method: str, pairs: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` pairs, each of the kind of its option's default."""
    known, found = method_info(method).options, {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--option {pair!r} is not NAME=VALUE")
        if name not in known:
            raise (
                unknown_name(f"option of {method}", name, known)
                if known
                else UserError(f"{method} takes no option {name!r}")
            )
        found[name] = _like(known[name], value, f"--option {pair!r}")
    return found


def _like(default: Any, text: str, what: str) -> Any:
    """`text` as a value of its option's kind; UserError if it is none."""
    if isinstance(default, str):
        return text
    try:
        value = json.loads(text, parse_constant=str)
    except ValueError:  # no JSON, or an integer of thousands of digits
        value = text
    kinds = (int, float) if isinstance(default, float) else type(default)
    if default is not None and (not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool)):
        raise UserError(f"{what} will not do: it takes a value like {default!r}")
    if isinstance(value, int | float):
        check_number(f"the value of {what},", value, -MOST_OPTION, MOST_OPTION)
    return value


def run_name(name: str | None, task: TaskConfig, method: str, results: Path) -> str:
    """A run's folder name: as given, or from network, data, method and the time."""
    if name is None:
        network = class_of(task.network) if is_given_network(task.network) else Path(task.network).name
        parts = [network, Path(task.data.partition(":")[2] or task.data).stem, method]
        readable = "-".join(re.sub(r"[^A-Za-z0-9_.]+", "-", part).strip("-.") for part in parts)
        return claim_folder(results.absolute(), f"{readable}-{time.strftime('%Y%m%d-%H%M%S')}")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise UserError(f"run name {name!r} is not a plain folder name; use letters, digits, '.', '_' and '-'")
    return name


def make(model: type[Model], **fields: Any) -> Model:
    """A validated model; UserError naming the first field that is off."""
    try:
        return model(**fields)
    except ValidationError as error:
        raise UserError(first_fault(error)) from None


def first_fault(error: Exception) -> str:
    """The first fault of a validation error in one clause."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    fault = error.errors()[0]
    if isinstance(own := fault.get("ctx", {}).get("error"), UserError):
        return str(own)  # which may have reasons not to repeat the value
    where = ".".join(str(part) for part in fault["loc"])
    words = fault["msg"].removeprefix("Value error, ")
    return f"{where} {fault['input']!r} will not do: {words[0].lower()}{words[1:]}"

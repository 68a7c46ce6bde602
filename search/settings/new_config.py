"""The configuration of a new run or task from what a user gave: names looked up, defaults that depend on others."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from methods.registry import method_info, method_label
from models.errors import UserError, unknown_name
from models.networks.catalog import own_names
from models.paths import user_path
from models.settings import setting_name
from models.task_config import TaskConfig
from models.user.code import is_user_spec
from models.user.spec_names import OWN_DATA, class_of, is_given_network
from search.allocation.constraints import Constraints
from search.allocation.constraints import read_rules as check_constraints
from search.allocation.targets import LATENCY, MEASURES, parse_targets
from search.files.atomic import claim_folder
from search.judge.baseline import baseline_task
from search.ledger.location import public_location, usual_ledger
from search.settings.config import RunConfig
from search.settings.latency_devices import LatencyDevices
from search.settings.mistakes import fault_sentence
from search.settings.setting import Setting, model_fields
from search.settings.users_code import identify_names, split_options

Model = TypeVar("Model", bound=BaseModel)

BASELINES = "baselines"  # folder below results
MOST_OPTION = 2.0**53  # of a method's option: where floats stop telling integers apart


def new_task_config(
    *,
    network: str | None,
    results: str,
    weights: str | None = None,
    data: str | None = None,
    task: str | None = None,
    fresh: bool = False,
    **fields: Any,
) -> TaskConfig:
    """A task from its settings; with none of network, weights and data, the embedded one with its baseline.

    Args:
        task: a user's own, in place of network and data; `weights` go into its network.
        fresh: leave the weights as they are given, even if that is none.
    """
    if task is not None:
        brought = {"network": network, "data": data}
        if doubled := [setting_name(name) for name, value in brought.items() if value]:
            raise UserError(f"{setting_name('task')} brings its own network and data; leave out {', '.join(doubled)}")
        return validate_model(
            TaskConfig, task=task, network=task, weights=weights, data=OWN_DATA, **fields
        ).with_absolute_paths()
    parts = [setting_name(name) for name, value in (("weights", weights), ("data", data)) if value]
    if network is None and parts:
        need, belong = ("needs", "it belongs") if len(parts) == 1 else ("need", "they belong")
        raise UserError(f"{' and '.join(parts)} {need} a {setting_name('network')} that {belong} to")
    if network is None and not fresh:
        embedded = baseline_task(Path(results) / BASELINES).model_dump()
        return validate_model(TaskConfig, **{**embedded, **fields}).with_absolute_paths()
    network = network or "small"
    chosen = validate_model(TaskConfig, network=network, weights=weights, data=data or _usual_data(network), **fields)
    return chosen.with_absolute_paths()


def _usual_data(network: str) -> str:
    """The data a named network is made for; a user's own must say."""
    if is_user_spec(network):
        raise UserError(
            f"network {network} needs {setting_name('data')}: a data set's name, imagefolder:DIR, npz:FILE or "
            "file.py:function"
        )
    if network == "small":
        return "digits"
    # Those of our catalog are made for images of 32 × 32; torchvision's have learned ImageNet.
    return "cifar10" if network in own_names() else "imagenet"


def new_run_config(
    settings: Mapping[str, Setting], values: Mapping[str, Any], task: TaskConfig, **fixed: Any
) -> RunConfig:
    """A run from checked values of its settings; unknown names and malformed targets are refused here.

    Args:
        values: by keyword, one for each setting (`read_settings`).
        fixed: fields that are no settings of this command.
    """
    fields = {**model_fields(settings, values, RunConfig), **fixed, "task": task}
    # Methods and strategies of files get their digests here, which executes the files: mistakes in them are told now.
    typed = tuple(dict.fromkeys(fields["methods"]))
    methods, strategies, code = identify_names(typed, tuple(dict.fromkeys(fields["strategies"])))
    fields |= {"methods": methods, "strategies": strategies, "code": code}
    comparison = bool(fields.get("comparison"))
    fields["options"] = read_options(fields["options"], methods, of_several=comparison)
    check_constraints(validate_model(Constraints, **fields["constraints"]))
    devices = LatencyDevices(values["latency_tables"])
    if (targets := asked_targets(values, devices)) is not None:
        fields["targets"] = parse_targets(",".join(targets))
    fields["latency_tables"] = devices.paths  # with those that targets have named
    # The last rung is the end of the fine-tune, so it says how many epochs a candidate has.
    if fields.get("rungs"):
        fields["recipe"]["epochs"] = fields["rungs"][-1]
    ledger = fields.get("ledger") or usual_ledger(fields["results"])
    fields["ledger"] = _absolute_location(public_location(ledger))
    validate_model(RunConfig, **{"name": "unnamed", **fields})  # refused before a folder of the run's name is claimed
    purpose = "compare" if comparison else "+".join(typed)
    fields["name"] = run_name(fields.get("name"), task, purpose, Path(fields["results"]))
    return validate_model(RunConfig, **fields)


def asked_targets(values: Mapping[str, Any], devices: LatencyDevices) -> Sequence[str] | None:
    """The targets that are asked for, those of several measures each with each; None if none is."""
    by_measure = {name: values["targets" if name == "flops" else f"target_{name}"] for name in MEASURES}
    named = {name: texts for name, texts in by_measure.items() if texts is not None}
    if values["target"] is not None and named:
        flag = f"--target-{next(iter(named))}"
        keyword = next(keyword for keyword in ("targets", *(f"target_{name}" for name in named)) if values.get(keyword))
        raise UserError(
            f"{setting_name('target')} says all there is to say of targets; leave out {setting_name(keyword, flag)}"
        )
    if values["target"] is not None:
        return [devices.name_devices(text) for text in values["target"]]
    if not named:
        return None
    if list(named) == ["flops"]:
        return named["flops"]
    if LATENCY in named:  # each device's is a measure of its own
        named |= devices.measures_of(named.pop(LATENCY))
    # Each of one measure with each of the others: `0.5,0.3` FLOPs and `0.4` parameters are two targets.
    lists = [[f"{name} {text}" for text in texts] for name, texts in named.items()]
    return [" + ".join(pieces) for pieces in itertools.product(*lists)]


def read_options(texts: Sequence[str], methods: Sequence[str], *, of_several: bool) -> dict[str, dict[str, Any]]:
    """Options by method, checked.

    Args:
        of_several: `METHOD.NAME=VALUE`; otherwise there is one method, whose name may be left out.
    """
    by_method = split_options(texts, methods) if of_several else {methods[0]: texts}
    return {method: dict(_read_option(method, text) for text in by_method[method]) for method in by_method}


def _absolute_location(ledger: str) -> str:
    """A database URL as it is, a file by its absolute path: a run may be resumed from another folder."""
    return ledger if "://" in ledger else str(user_path(ledger).absolute())


def _read_option(method: str, name_and_value: str) -> tuple[str, Any]:
    """An option of a method and its value, of the kind of its default; the method's name may stand before it."""
    shown = f"{setting_name('options', '--option')} {name_and_value!r}"
    option, equals, text = name_and_value.partition("=")
    if not equals:
        raise UserError(f"{shown} is not NAME=VALUE")
    defaults = method_info(method).options
    if option not in defaults:  # in a composition `kse.alpha` is the option's own name
        option = option.removeprefix(f"{method_label(method)}.")
    if option not in defaults:
        none = UserError(f"{method} takes no option {option!r}")
        raise unknown_name(f"option of {method}", option, defaults) if defaults else none
    default = defaults[option]
    if isinstance(default, str):
        return option, text
    try:
        value = json.loads(text, parse_constant=str)  # NaN and Infinity, which are no JSON, become text
    except ValueError:  # no JSON, or an integer of thousands of digits
        value = text
    # An integer will do for a float; a bool, which Python takes for an integer, will not.
    kinds = (int, float) if isinstance(default, float) else type(default)
    if default is not None and (not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool)):
        raise UserError(f"{shown} will not do: it takes a value like {default!r}")
    if isinstance(value, int | float) and not abs(value) <= MOST_OPTION:
        raise UserError(f"{shown} will not do: its value must lie between ±{MOST_OPTION:.0f}")
    return option, value


def run_name(name: str | None, task: TaskConfig, method: str, results: Path) -> str:
    """A run's folder name: as given, or from network, data, method and the time."""
    if name is None:
        network = class_of(task.network) if is_given_network(task.network) else Path(task.network).name
        data = [] if task.task else [Path(task.data.partition(":")[2] or task.data).stem]
        words = [network.strip("_"), *data, method]
        readable = "-".join(re.sub(r"[^A-Za-z0-9_.]+", "-", word).strip("-.") for word in words)
        return claim_folder(results.absolute(), f"{readable}-{time.strftime('%Y%m%d-%H%M%S')}")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise UserError(f"run name {name!r} is not a plain folder name; use letters, digits, '.', '_' and '-'")
    return name


def validate_model(model: type[Model], **fields: Any) -> Model:
    """A validated model; UserError naming the first field that is off."""
    try:
        return model(**fields)
    except ValidationError as error:
        place = error.errors()[0]["loc"]
        raise UserError(fault_sentence(error, setting_name(str(place[-1])) if place else "")) from None

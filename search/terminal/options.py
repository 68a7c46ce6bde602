"""The options that several commands share, declared once, and the decorator that lets a command take them."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, ParamSpec, TypeVar, get_type_hints

import typer

from models.errors import UserError, unknown
from search import bounds
from search.allocation.targets import MEASURES, combined
from search.bounds import check_setting

DEFAULT_TARGET = "0.5"
P = ParamSpec("P")
R = TypeVar("R")

Network = Annotated[str | None, typer.Option(help="A name from `networks`, or path/to/file.py:function.")]
Weights = Annotated[
    str | None, typer.Option(help="Checkpoint of the dense network (.pt, .pth, .safetensors); FILE#ema: a part of it.")
]
DataSpec = Annotated[
    str | None, typer.Option("--data", help="A data set, imagefolder:DIR, npz:FILE or file.py:function.")
]
Epochs = Annotated[
    float,
    typer.Option("--epochs", min=0, max=bounds.MOST_EPOCHS, help="Passes over the data; fractions are allowed."),
]
Rate = Annotated[float, typer.Option("--lr", max=bounds.MOST_RATE, help="Peak learning rate.")]
Seed = Annotated[int, typer.Option(min=0, max=bounds.MOST_SEED)]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N; a GPU is used by itself if there is one.")]
LedgerSpec = Annotated[str | None, typer.Option(help="SQLite file or database URL; default <results>/ledger.db.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


class Group:
    """Options that belong together; a subclass is a dataclass with annotated fields and defaults."""

    def typed(self) -> dict[str, Any]:
        """The options as they were given, by their names."""
        return asdict(self)  # type: ignore[call-overload]

    def values(self) -> dict[str, Any]:
        """What a configuration is built from."""
        return self.typed()


@dataclass
class TaskOptions(Group):
    """What is compressed, and the data it is judged on."""

    network: Network = None
    weights: Weights = None
    data: DataSpec = None
    data_root: Annotated[str, typer.Option(help="Where torchvision's data sets lie or are downloaded to.")] = "data"
    mean: Annotated[str | None, typer.Option(help="Per channel, comma-separated, for inputs in [0, 1].")] = None
    std: Annotated[str | None, typer.Option(help="Like --mean.")] = None
    train_images: Annotated[
        int | None, typer.Option(max=bounds.MOST_IMAGES, help="Use only so many training images.")
    ] = None
    search_fraction: Annotated[
        float | None, typer.Option(help="Part of the training set that ranks candidates; default 0.1.")
    ] = None
    split_seed: Annotated[
        int, typer.Option(min=0, max=bounds.MOST_SEED, help="Seed of the split of the training set.")
    ] = 0
    results: Annotated[str, typer.Option(help="Where runs, the ledger and baselines lie.")] = "results"


@dataclass
class TrainOptions(Group):
    """How a dense network is trained."""

    epochs: Epochs = 30.0
    batch_size: Annotated[int, typer.Option(min=2, max=bounds.MOST_BATCH)] = 128
    lr: Rate = 0.1
    schedule: Annotated[str, typer.Option(help="one-cycle or cosine.")] = "one-cycle"
    weight_decay: Annotated[float, typer.Option(min=0, max=bounds.MOST_DECAY)] = 5e-4


@dataclass
class RecipeOptions(TrainOptions):
    """How candidates are fine-tuned: shorter, gentler, following the dense network."""

    epochs: Epochs = 1.0
    lr: Rate = 0.01
    schedule: Annotated[str, typer.Option(help="cosine or one-cycle.")] = "cosine"
    distill_weight: Annotated[
        float, typer.Option("--distill", min=0, max=1, help="Weight of the dense network's outputs; 0: off.")
    ] = 0.9
    temperature: Annotated[float, typer.Option(max=bounds.MOST_TEMPERATURE, help="Of distillation.")] = 4.0


@dataclass
class PlanOptions(Group):
    """What is asked of a method, and how its sites are measured."""

    targets: Annotated[
        str | None,
        typer.Option("--target-flops", help="Comma-separated: 0.5, 60M, 1.2G, 2.12x; 0.5 where no target is given."),
    ] = None
    target_params: Annotated[str | None, typer.Option(help="Likewise of parameters: 0.4, 2M. All must be met.")] = None
    target_bytes: Annotated[str | None, typer.Option(help="Likewise of stored bytes: 0.25, 500K.")] = None
    target_latency: Annotated[
        str | None, typer.Option(help="Likewise of measured time for a batch: 0.6, 5ms, 1.8x.")
    ] = None
    latency_batch: Annotated[
        int, typer.Option(min=1, max=bounds.MOST_BATCH, help="Images in the batch whose latency is meant.")
    ] = 1
    target: Annotated[
        str | None, typer.Option(help="Several measures in one: 'flops 0.5 + params 0.4', comma-separated.")
    ] = None
    options: Annotated[
        list[str] | None,
        typer.Option("--option", help="NAME=VALUE for the method, in compare METHOD.NAME=VALUE; repeatable."),
    ] = None
    keep_dense: Annotated[
        list[str] | None,
        typer.Option(help="Sites or layers to leave dense, by name or pattern ('layer1.*'); repeatable."),
    ] = None
    bound: Annotated[
        list[str] | None,
        typer.Option(help="Kept fraction of some sites: 'layer3.*=0.25..0.75', or 'PATTERN=KNOB:2..4'; repeatable."),
    ] = None
    round_channels: Annotated[
        list[str] | None,
        typer.Option(help="Keep multiples of so many channels: 8, or 'layer3.*=16' for some sites; repeatable."),
    ] = None
    scan_levels: Annotated[
        int, typer.Option(min=1, max=bounds.MOST_LEVELS, help="Strengths measured per site in a sensitivity scan.")
    ] = 7
    scan_images: Annotated[
        int, typer.Option(min=1, max=bounds.MOST_IMAGES, help="Search images per measurement of a scan.")
    ] = 2000
    seed: Seed = 0
    device: Device = None

    def values(self) -> dict[str, Any]:
        values = {**super().values(), "options": self.options or []}
        given = {name: values.pop("targets" if name == "flops" else f"target_{name}") for name in MEASURES}
        values["targets"] = _targets(values.pop("target"), given)
        names = ("keep_dense", "bound", "round_channels")
        constraints = {name: tuple(values.pop(name) or ()) for name in names}
        return {**values, "constraints": constraints}


def _targets(whole: str | None, given: Mapping[str, str | None]) -> str:
    """One list of targets from the options that name them."""
    named = [name for name, text in given.items() if text is not None]
    if whole is not None and named:
        raise UserError(f"--target says all there is to say of targets; leave out --target-{named[0]}")
    if whole is None and not named:
        return DEFAULT_TARGET
    return combined(given) if whole is None else whole


@dataclass
class RunOptions(Group):
    """How a search is carried out and where it is kept."""

    final_epochs: Annotated[
        float | None,
        typer.Option(min=0, max=bounds.MOST_EPOCHS, help="Of finalists; default three times --epochs."),
    ] = None
    trials: Annotated[
        int,
        typer.Option(
            min=1,
            max=bounds.MOST_CANDIDATES,
            help="Candidates per target at most; strategies that sample use them all.",
        ),
    ] = 8
    rungs: Annotated[
        str | None,
        typer.Option(
            help="Epochs after which sampled candidates are judged and the better ones go on, as in 0,0.25,1; "
            "the last in place of --epochs."
        ),
    ] = None
    reduction_factor: Annotated[
        float, typer.Option(min=1, max=bounds.MOST_REPEATS, help="One in so many goes on to the next rung.")
    ] = 3.0
    workers: Annotated[
        int | None, typer.Option(min=0, max=bounds.MOST_WORKERS, help="Processes; 0 runs in this one, without Ray.")
    ] = None
    gpus_per_worker: Annotated[
        float | None, typer.Option(min=0, max=bounds.MOST_GPUS, help="Fractions share a GPU.")
    ] = None
    ray_address: Annotated[str | None, typer.Option(help="A running Ray cluster: auto or host:port.")] = None
    time_limit: Annotated[
        float | None,
        typer.Option(
            min=0, max=bounds.MOST_SECONDS, help="Seconds for one candidate; with --workers 0 for its fine-tune alone."
        ),
    ] = None
    ledger: LedgerSpec = None
    name: Annotated[str | None, typer.Option(help="Of the run's folder.")] = None


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
                    raise TypeError(f"{function.__name__}(): {unknown('keyword', name, names)}")
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

"""The engine from Python; the command line calls these same functions.

    from search import api

    found = api.search(network, (x_train, y_train, x_test, y_test), targets=[0.5, 0.3], epochs=1)
    found.finalists                # pandas: one line per finalist, on the test set
    found.pareto                   # pandas: the front on the search split
    small = found.network("0.3")   # nn.Module: the best at that target, fine-tuned, ready for inference or training
    found.export(to="deploy")      # packed weights, torch.export, ONNX, model card

A *network* is a name (`api.networks()`), `path/to/file.py:function`, or an `nn.Module` that takes (N, C, H, W) float32
images and returns (N, classes); it is left as it is. *Data* is a name, `npz:FILE`, `imagefolder:DIR`,
`path/to/file.py:function`, four arrays `x_train, y_train, x_test, y_test` (images (N, H, W), (N, H, W, C) or
(N, C, H, W), bytes, 16 bits or floats; labels (N,), numbers or names), or a pair of data sets of (picture, label).

FLOPs are multiply-accumulates for one input, accuracies lie in 0..1, bytes are those of the stored parameters. Whatever
a user can mend is a `UserError` (a `ValueError`) of one sentence. Arrays and weights of objects are kept below
`<results>/given/`; an `nn.Module` itself is kept nowhere: to resume or export a run of it in another process, give one
that is built in the same way.

With `task=` in place of both, any network is compressed for any purpose: `path/to/file.py:function`, or a
`models.task.Task`, which is kept nowhere either.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import UserError
from models.task import Task
from models.task_config import TaskConfig
from search.export.compressed import load_compressed
from search.export.settings import EXPORT
from search.kit.settings import MEASURE, KitSettings
from search.lookups import leaderboard, methods, networks, strategies, verify
from search.recipe import DENSE_TRAINING, Recipe
from search.screens import Show, observer_of
from search.settings.choices import check_choices
from search.settings.commands import COMPARE, COMPARE_FIXED, PLAN, SEARCH, TRAIN
from search.settings.config import RunConfig
from search.settings.inputs import Data, Network, check_same, task_of
from search.settings.keywords import takes_keywords
from search.settings.new_config import new_run_config, read_options
from search.settings.setting import Setting, model_fields
from search.settings.users_code import identify_names

if TYPE_CHECKING:  # each function imports what it needs: a plan does without databases and pictures
    from search.api_objects import RunResult, Trained
    from search.engine.plan import Plan
    from search.export.export import Exported
    from search.kit.make_kit import Kit

__all__ = [
    "compare",
    "export",
    "leaderboard",
    "load_compressed",
    "measure_latency",
    "methods",
    "networks",
    "open_run",
    "plan",
    "search",
    "strategies",
    "train",
    "verify",
]


@takes_keywords(SEARCH)
def search(
    network: Network | None = None,
    data: Data | None = None,
    *,
    show: Show = True,
    **settings: Any,
) -> RunResult:
    """Search an allocation for each target, fine-tune and test the best of each, and leave a report.

    Args:
        network: what is compressed; None takes the embedded digits with a small network, trained in seconds.
        data: what it is fine-tuned and judged on; None takes what a named network is made for.
        show: print progress; False is silent, a rich `Console` says where.

    With `resume` other settings than `results` are ignored, but an `nn.Module` or a `Task` must be given.

    Raises:
        UserError: an input that cannot be worked with, before anything is trained; or every candidate or every finalist
            failed.
    """
    config = _resumed_or_new(network, data, SEARCH, settings)
    return run_config(config, show=show, retry_failed=settings["retry_failed"])


def _resumed_or_new(
    network: Network | None, data: Data | None, declared: Mapping[str, Setting], values: Mapping[str, Any], **fixed: Any
) -> RunConfig:
    """The configuration of the run to resume, or of a new one."""
    from search.engine.run_folder import resumed_config

    if values["resume"] is None:
        return _new_run(network, data, declared, values, **fixed)
    config = resumed_config(values["resume"], values["results"])
    check_same(network, config.task, values["task"])
    return config


def _new_run(
    network: Network | None, data: Data | None, declared: Mapping[str, Setting], values: Mapping[str, Any], **fixed: Any
) -> RunConfig:
    """A run's configuration; what can be refused at once is, before network and data are touched."""
    chosen = model_fields(declared, values, RunConfig)
    check_choices(chosen["methods"], chosen["strategies"], values["device"])
    return new_run_config(declared, values, _task_config(network, data, declared, values), **fixed)


def run_config(config: RunConfig, *, show: Show = True, retry_failed: bool = False) -> RunResult:
    """`search` or `compare` for a configuration that is there already."""
    from search.carry_out import carry_out

    return carry_out(config, observer_of(show), retry_failed=retry_failed)


@takes_keywords(PLAN)
def plan(network: Network | None = None, data: Data | None = None, **settings: Any) -> Plan:
    """The allocation that a strategy comes to for one target, with its exact cost; nothing is trained.

    Raises:
        UserError: an input that cannot be worked with, a target out of reach, or more than one target or strategy.
    """
    from search.engine.plan import solve_plan

    return solve_plan(_new_run(network, data, PLAN, settings, name="plan"))


@takes_keywords(MEASURE)
def measure_latency(
    network: Network | None = None, data: Data | None = None, *, show: Show = True, **settings: Any
) -> Kit:
    """Write a kit: small ONNX files, and a script that times them on the device where networks are deployed.

    The script's table is what `latency_tables` of `plan`, `search` and `compare` take. One method that removes channels
    serves all of these; `svd` and `tucker` need kits with layers of their own.

    Raises:
        UserError: an input that cannot be worked with, or a folder that is in use.
    """
    from search.kit.make_kit import make_kit

    fields = model_fields(MEASURE, settings, RunConfig)
    check_choices(fields["methods"])
    methods, _, _ = identify_names(tuple(dict.fromkeys(fields["methods"])), ())
    options = read_options(fields.get("options", ()), methods, of_several=len(methods) > 1)
    task = _task_config(network, data, MEASURE, settings, fresh=True)  # times are the same whatever the weights
    chosen = {name: settings[name] for name in KitSettings.model_fields if name != "to"}
    observer = observer_of(show)
    kit = make_kit(task, {name: options.get(name, {}) for name in methods}, settings["to"], observer.say, **chosen)
    observer.on_kit_written(kit)
    return kit


@takes_keywords(COMPARE)
def compare(
    network: Network | None = None,
    data: Data | None = None,
    *,
    show: Show = True,
    **settings: Any,
) -> RunResult:
    """Every method × strategy × target, the best of each tested with several seeds.

    What the ledger knows is not done again. `options` are `{"METHOD.NAME": value}` here; a single seed has no known
    noise, so no rank. Other arguments and errors are those of `search`. The result's `leaderboard` ranks what is known
    of the task.
    """
    config = _resumed_or_new(network, data, COMPARE, settings, **COMPARE_FIXED)
    return run_config(config, show=show, retry_failed=settings["retry_failed"])


@takes_keywords(TRAIN)
def train(
    network: Network | None = None,
    data: Data | None = None,
    *,
    show: Show = True,
    **settings: Any,
) -> Trained:
    """Train a dense baseline on the fine-tuning part, so that its search split stays unseen; a copy if it is an object.

    Give the file `out` as `weights` to `search`.

    Raises:
        UserError: an input that cannot be worked with, or a file that cannot be written.
    """
    from search.api_objects import Trained
    from search.judge import baseline

    check_choices(device=settings["device"])
    task = _task_config(network, data, TRAIN, settings, fresh=True)
    recipe = Recipe(**{**DENSE_TRAINING.model_dump(), **model_fields(TRAIN, settings, RunConfig)["recipe"]})
    observer, path, notices = observer_of(show), Path(settings["out"]), list[str]()

    def take_note(notice: str) -> None:
        notices.append(notice)
        observer.on_data_notice(notice)

    baseline.check_weights_file(path, force=settings["force"])  # before a bar is drawn
    with observer.while_training() as on_step:
        metric, scores = baseline.train_baseline(
            task,
            recipe,
            path,
            on_step=on_step,
            on_notice=take_note,
            spare=[Path(settings["results"])],
            **{name: settings[name] for name in ("seed", "device", "force")},
        )
    observer.on_trained(path, metric, scores)
    return Trained(path, metric, scores, task.model_copy(update={"weights": str(path.absolute())}), tuple(notices))


@takes_keywords({"run": EXPORT["run"]})
def open_run(run: str | Path, *, network: Network | None = None, task: Task | None = None) -> RunResult:
    """A run that `search` or `compare` left, by its folder or its name below `results`.

    Args:
        network: an `nn.Module` like the one that the run was given, if it was given one.
        task: the same of a `models.task.Task`.

    Raises:
        UserError: there is none (nearest names), or it is not whole.
    """
    from search.api_objects import RunResult

    if task is not None and not isinstance(task, Task):
        raise UserError(f"task {task!r} will not do; give the models.task.Task that the run was given")
    result = RunResult.read(run)
    check_same(network, result.config.task, task)
    return result


@takes_keywords(EXPORT)
def export(
    run: str | Path,
    *,
    network: Network | None = None,
    task: Task | None = None,
    show: Show = True,
    **settings: Any,
) -> Exported:
    """Write a candidate of a run as files to deploy, each tried on test images against the fine-tuned network.

    Args:
        network: an `nn.Module` like the one that the run was given, if it was given one.
        task: the same of a `models.task.Task`.

    Raises:
        UserError: an input that cannot be worked with, or a form that does not compute what the network does; nothing
            was written then.
    """
    from search.export.export import export_run

    check_choices(device=settings["device"])
    finished = open_run(run, network=network, task=task).run
    observer = observer_of(show)
    with observer.while_exporting() as on_step:
        exported = export_run(finished, say=observer.say, on_step=on_step, **settings)
    observer.on_exported(exported)
    return exported


def _task_config(
    network: Network | None,
    data: Data | None,
    declared: Mapping[str, Setting],
    values: Mapping[str, Any],
    *,
    fresh: bool = False,
) -> TaskConfig:
    """The task that network, data and their settings describe."""
    fields = model_fields(declared, values, RunConfig)["task"]
    return task_of(network, data, results=values["results"], fresh=fresh, **fields)

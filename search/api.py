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
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.export.compressed import load_compressed
from search.lookups import leaderboard, methods, networks, strategies, verify
from search.screens import Show, observer_of
from search.settings import build
from search.settings.bounds import MOST_EPOCHS, MOST_SEED, check_number
from search.settings.choices import check_choices, list_names
from search.settings.config import RunConfig
from search.settings.groups import keywords, settings_of
from search.settings.inputs import Data, Network, check_same, task_of
from search.settings.options import (
    PlanOptions,
    RecipeOptions,
    RunOptions,
    TaskOptions,
    TrainOptions,
)

if TYPE_CHECKING:  # each function imports what it needs: a plan does without databases and pictures
    from search.api_objects import RunResult, Trained
    from search.engine.plan import Plan
    from search.export.export import Exported

__all__ = [
    "compare",
    "export",
    "leaderboard",
    "load_compressed",
    "methods",
    "networks",
    "open_run",
    "plan",
    "search",
    "strategies",
    "train",
    "verify",
]

Names = str | Sequence[str]


@keywords(TaskOptions, PlanOptions, RecipeOptions, RunOptions)
def search(
    network: Network | None = None,
    data: Data | None = None,
    *,
    method: str = "l1",
    strategy: Names = ("acra-uniform", "acra-sensitivity"),
    final_seeds: int = 3,
    finalists: int = 1,
    warm_start: bool = True,
    resume: str | Path | None = None,
    retry_failed: bool = False,
    show: Show = True,
    command: str | None = None,
    **settings: Any,
) -> RunResult:
    """Search an allocation for each target, fine-tune and test the best of each, and leave a report.

    Args:
        network: what is compressed; None takes the embedded digits with a small network, trained in seconds.
        data: what it is fine-tuned and judged on; None takes what a named network is made for.
        finalists: per target; 0 leaves the test set alone.
        final_seeds: of each finalist.
        warm_start: sampling begins with what the ledger knows and with the first points of the others.
        resume: a run's folder or name: go on with it. Other settings are ignored, but an `nn.Module` must be given.
        retry_failed: judge failed candidates of the ledger again.
        show: print progress; False is silent, a rich `Console` says where.
        command: what the report names as the way to this run; None names an equivalent command line.

    Raises:
        UserError: an input that cannot be worked with, before anything is trained; or every candidate failed.
    """
    if resume is not None:
        config = _resumed(resume, network)
    else:
        check_choices([method], list_names(_names(strategy), "strategy"), settings.get("device"))
        config = build.search_config(
            task=_task(network, data, settings),
            recipe=build.recipe(**settings_of(RecipeOptions, settings)),
            method=method,
            strategies=_names(strategy),
            final_seeds=final_seeds,
            finalists=finalists,
            warm_start=warm_start,
            results=settings_of(TaskOptions, settings)["results"],
            **settings_of(PlanOptions, settings),
            **settings_of(RunOptions, settings),
        )
    return run_config(config, show=show, command=command, retry_failed=retry_failed)


def run_config(
    config: RunConfig, *, show: Show = True, command: str | None = None, retry_failed: bool = False
) -> RunResult:
    """`search` or `compare` for a configuration that is there already."""
    from search.api_objects import RunResult
    from search.carry_out import carry_out

    record, complete = carry_out(config, observer_of(show), command=command, retry_failed=retry_failed)
    return RunResult.read(config.folder, complete=complete, record=record)


def _resumed(run: str | Path, network: Network | None) -> RunConfig:
    from search.engine.run_folder import resumed_config

    config = resumed_config(run)
    check_same(network, config.task)
    return config


@keywords(TaskOptions, PlanOptions)
def plan(
    network: Network | None = None,
    data: Data | None = None,
    *,
    method: str = "l1",
    strategy: str = "acra-uniform",
    **settings: Any,
) -> Plan:
    """The allocation that a strategy comes to for one target, with its exact cost; nothing is trained.

    Raises:
        UserError: an input that cannot be worked with, a target out of reach, or more than one target or strategy.
    """
    from search.engine.plan import solve

    check_choices([method], list_names(_names(strategy), "strategy"), settings.get("device"))
    return solve(
        build.search_config(
            task=_task(network, data, settings),
            method=method,
            strategies=_names(strategy),
            results=settings_of(TaskOptions, settings)["results"],
            name="plan",
            **settings_of(PlanOptions, settings),
        )
    )


@keywords(TaskOptions, PlanOptions, RecipeOptions, RunOptions)
def compare(
    network: Network | None = None,
    data: Data | None = None,
    *,
    methods: Names = ("l1", "fpgm", "kse"),
    strategies: Names = ("acra-uniform", "lagrangian"),
    seeds: int = 3,
    resume: str | Path | None = None,
    retry_failed: bool = False,
    show: Show = True,
    **settings: Any,
) -> RunResult:
    """Every method × strategy × target, the best of each tested with several seeds.

    What the ledger knows is not done again.

    Args:
        seeds: of every finalist; one alone has no known noise, so no rank.
        settings: `options` are `{"METHOD.NAME": value}` here.

    Other arguments and errors are those of `search`. The result's `leaderboard` ranks what is known of the task.
    """
    if resume is not None:
        config = _resumed(resume, network)
    else:
        names = list_names(_names(methods), "method"), list_names(_names(strategies), "strategy")
        check_choices(*names, settings.get("device"))
        config = build.compare_config(
            task=_task(network, data, settings),
            recipe=build.recipe(**settings_of(RecipeOptions, settings)),
            methods=_names(methods),
            strategies=_names(strategies),
            seeds=seeds,
            results=settings_of(TaskOptions, settings)["results"],
            **settings_of(PlanOptions, settings),
            **settings_of(RunOptions, settings),
        )
    return run_config(config, show=show, retry_failed=retry_failed)


@keywords(TaskOptions, TrainOptions)
def train(
    network: Network | None = None,
    data: Data | None = None,
    *,
    out: str | Path,
    seed: int = 0,
    device: str | None = None,
    force: bool = False,
    show: Show = True,
    **settings: Any,
) -> Trained:
    """Train a dense baseline on the fine-tuning part, so that its search split stays unseen; a copy if it is an object.

    Args:
        out: the file to write, `.safetensors`, or `.pt`, `.pth` or `.th` for a state dict as `torch.save` writes it;
            give it as `weights` to `search`.
        force: replace a file that is there.

    Raises:
        UserError: an input that cannot be worked with, or a file that cannot be written.
    """
    from search.api_objects import Trained
    from search.judge import baseline

    check_number("seed", seed, 0, MOST_SEED)
    check_choices(device=device)
    config = _task(network, data, settings, fresh=True)
    recipe = build.recipe(**settings_of(TrainOptions, settings), distill_weight=0.0)
    results = Path(settings_of(TaskOptions, settings)["results"])
    observer, path, notices = observer_of(show), Path(out), list[str]()

    def take_note(notice: str) -> None:
        notices.append(notice)
        observer.note(notice)

    baseline.check_weights_file(path, force=force)  # before a bar is drawn
    with observer.training() as on_step:
        accuracy = baseline.train_baseline(
            config,
            recipe,
            path,
            seed=seed,
            device=device,
            on_step=on_step,
            on_notice=take_note,
            force=force,
            spare=[results],
        )
    observer.trained(path, accuracy)
    return Trained(path, accuracy, config.model_copy(update={"weights": str(path.absolute())}), tuple(notices))


@keywords()
def open_run(run: str | Path, *, network: Network | None = None) -> RunResult:
    """A run that `search` or `compare` left, by its folder or its name below `results`.

    Args:
        network: an `nn.Module` like the one that the run was given, if it was given one.

    Raises:
        UserError: there is none (nearest names), or it is not whole.
    """
    from search.api_objects import RunResult

    found = RunResult.read(run)
    check_same(network, found.config.task)
    return found


@keywords()
def export(
    run: str | Path,
    *,
    pick: str = "best",
    to: str | Path | None = None,
    formats: Names = "config,safetensors,pt2,onnx",
    finetune: float | None = None,
    force: bool = False,
    device: str | None = None,
    network: Network | None = None,
    show: Show = True,
) -> Exported:
    """Write a candidate of a run as files to deploy, each tried on test images against the fine-tuned network.

    Args:
        run: its folder, or its name below `results`; of a search or a comparison.
        pick: best, knee, smallest, a target as it was asked for, or the beginning of a candidate's name.
        to: the folder to write; None takes `export` in the run's own.
        formats: any of config, safetensors, pt2, onnx.
        finetune: epochs of a longer fine-tune before; one that was interrupted goes on from its last epoch.
        force: write into a folder that is not empty; an export that is there is replaced, other files never.
        device: where to fine-tune; None takes the search's.
        network: an `nn.Module` like the one that the run was given, if it was given one.

    Raises:
        UserError: an input that cannot be worked with, or a form that does not compute what the network does; nothing
            was written then.
    """
    from search.export.export import export_run
    from search.export.formats import parse_formats

    if finetune is not None:
        check_number("finetune", finetune, 0, MOST_EPOCHS)
    check_choices(device=device)
    folder = open_run(run, network=network).folder
    observer = observer_of(show)
    with observer.exporting() as on_step:
        exported = export_run(
            folder,
            pick=pick,
            to=to,
            formats=parse_formats(_names(formats)),
            finetune=finetune,
            force=force,
            device=device,
            say=observer.say,
            on_step=on_step,
        )
    observer.exported(exported)
    return exported


def _task(network: Network | None, data: Data | None, settings: Mapping[str, Any], *, fresh: bool = False) -> Any:
    fields = settings_of(TaskOptions, settings)
    return task_of(network, data, fresh=fresh, **{k: v for k, v in fields.items() if k not in ("network", "data")})


def _names(given: Names) -> str:
    return given if isinstance(given, str) else ",".join(given)

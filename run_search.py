"""The command line: parse, build, run. `python run_search.py` alone searches on the embedded data."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from typer.exceptions import TyperException

from models.errors import UserError
from search.terminal.options import (
    AsJson,
    Device,
    LedgerSpec,
    PlanOptions,
    RecipeOptions,
    RunOptions,
    TaskOptions,
    TrainOptions,
    takes_groups,
)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    help="Search the compression level of every layer of a CNN for a FLOPs budget.",
)

Method = Annotated[str, typer.Option(help="A name from `methods`, or two that compose: l1+kse.")]
Resume = Annotated[Path | None, typer.Option(help="A run's folder: go on with it; other options are ignored.")]
RetryFailed = Annotated[bool, typer.Option(help="Judge failed candidates of the ledger again.")]


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """Without a sub-command: a search on the embedded digits, on a baseline trained in seconds."""
    if context.invoked_subcommand is None:
        print("ratio-search on the embedded digits: a small network is trained once, then compressed to three budgets.")
        print("About half a minute on two idle cores. Loading ...", flush=True)
        from search import api
        from search.run.demo import demo_config

        _end(api.run_config(demo_config("results"), show=Console(), command=_command_line()), as_json=False)


@app.command()
@takes_groups
def search(
    task: TaskOptions,
    plan: PlanOptions,
    recipe: RecipeOptions,
    run: RunOptions,
    method: Method = "l1",
    strategy: Annotated[str, typer.Option(help="Comma-separated names.")] = "acra-uniform,acra-sensitivity",
    final_seeds: Annotated[int, typer.Option(min=1)] = 3,
    finalists: Annotated[int, typer.Option(min=0, help="Per target; 0 leaves the test set alone.")] = 1,
    warm_start: Annotated[
        bool, typer.Option(help="Sampling begins with what the ledger knows and the other strategies' points.")
    ] = True,
    resume: Resume = None,
    retry_failed: RetryFailed = False,
    json_: AsJson = False,
) -> None:
    """Search an allocation for each FLOPs target, fine-tune, and leave a report."""
    from search import api

    console = Console(stderr=json_)
    result = api.search(
        method=method,
        strategy=strategy,
        final_seeds=final_seeds,
        finalists=finalists,
        warm_start=warm_start,
        resume=resume,
        retry_failed=retry_failed,
        show=console,
        command=_command_line(),
        **task.typed(),
        **plan.typed(),
        **recipe.typed(),
        **run.typed(),
    )
    _end(result, as_json=json_)


@app.command()
@takes_groups
def plan(
    task: TaskOptions,
    plan: PlanOptions,
    method: Method = "l1",
    strategy: Annotated[str, typer.Option(help="One name.")] = "acra-uniform",
    json_: AsJson = False,
) -> None:
    """Sites, allocation, predicted cost and reachable range; nothing is trained."""
    from search import api
    from search.terminal.show_small import show_plan

    found = api.plan(method=method, strategy=strategy, **task.typed(), **plan.typed())
    _print_json(found.record) if json_ else show_plan(found.record, Console())


@app.command()
@takes_groups
def compare(
    task: TaskOptions,
    plan: PlanOptions,
    recipe: RecipeOptions,
    run: RunOptions,
    methods_: Annotated[str, typer.Option("--methods", help="Comma-separated; l1+kse is one of them.")] = "l1,fpgm,kse",
    strategies_: Annotated[
        str,
        typer.Option(
            "--strategies",
            help="Comma-separated names. A method that learns its allocation does that instead, unless it is named.",
        ),
    ] = "acra-uniform,lagrangian",
    seeds: Annotated[int, typer.Option(min=1, help="Of every finalist; one alone has no known noise.")] = 3,
    resume: Resume = None,
    retry_failed: RetryFailed = False,
    json_: AsJson = False,
) -> None:
    """Every method × strategy × target, the best of each tested with several seeds; then the leaderboard."""
    from search import api
    from search.terminal.boards import wide

    result = api.compare(
        methods=methods_,
        strategies=strategies_,
        seeds=seeds,
        resume=resume,
        retry_failed=retry_failed,
        show=wide(sys.stderr if json_ else sys.stdout),
        **task.typed(),
        **plan.typed(),
        **recipe.typed(),
        **run.typed(),
    )
    _end(result, as_json=json_)


@app.command()
def leaderboard(
    task: Annotated[list[str] | None, typer.Option(help="Title or fingerprint; repeatable; default all.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Show these alone; repeatable.")] = None,
    strategy: Annotated[list[str] | None, typer.Option(help="Show these alone; repeatable.")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Show these alone, as in --target-flops; repeatable.")
    ] = None,
    sort: Annotated[str | None, typer.Option(help="A column of the CSV; with - before it, falling.")] = None,
    format_: Annotated[str, typer.Option("--format", help="table, csv, md, tex, html or json.")] = "table",
    to: Annotated[Path | None, typer.Option(help="A file; html goes to <results>/leaderboard.html by itself.")] = None,
    reported: Annotated[bool, typer.Option(help="Papers' figures beside: labelled, not ranked.")] = False,
    verify: Annotated[str | None, typer.Option(help="A row: judge its stored weights on the test set again.")] = None,
    device: Device = None,
    ledger: LedgerSpec = None,
    results: Annotated[str, typer.Option(help="Where runs, the ledger and baselines lie.")] = "results",
) -> None:
    """What is known of tasks: every method and strategy on the test set, ranked as far as the noise allows."""
    from search import api
    from search.leaderboard import text as leaderboard_text
    from search.terminal.boards import check_format, wide

    check_format(format_)
    where: dict[str, Any] = {"task": task or [], "results": results, "ledger": ledger}
    if verify is not None:
        console = wide(sys.stderr if format_ == "json" else sys.stdout)
        found = api.verify(verify, device=device, show=console, **where)
        if format_ == "json":
            _print_json(found.record)
        raise typer.Exit(0 if found.holds else 1)
    rows: dict[str, Any] = {"method": method or [], "strategy": strategy or [], "target": target or []}
    board = api.leaderboard(sort=sort, reported=reported, **rows, **where)
    if to is not None or format_ == "html":
        path = board.write(to or Path(results) / "leaderboard.html", format_)
        print(f"leaderboard in {path}")
    elif format_ == "table":
        leaderboard_text.show(board.boards, wide(sys.stdout), with_reported=reported)
    else:
        print(board.text(format_), end="")


@app.command()
@takes_groups
def train(
    task: TaskOptions,
    recipe: TrainOptions,
    out: Annotated[Path, typer.Option(help="Where the weights go (.safetensors).")],
    seed: Annotated[int, typer.Option()] = 0,
    device: Device = None,
    json_: AsJson = False,
) -> None:
    """Train a dense baseline on the fine-tuning part; its search split stays unseen."""
    from search import api

    made = api.train(out=out, seed=seed, device=device, show=Console(stderr=json_), **task.typed(), **recipe.typed())
    if json_:
        _print_json({"weights": str(made.weights), "accuracy": dict(made.accuracy), "notices": list(made.notices)})


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="A run's folder, or its name below results.")],
    pick: Annotated[
        str, typer.Option(help="best, knee, smallest, a target (its best), or the beginning of a candidate's name.")
    ] = "best",
    to: Annotated[Path | None, typer.Option(help="Folder to write; default RUN/export.")] = None,
    format_: Annotated[
        str, typer.Option("--format", help="Comma-separated: config, safetensors, pt2, onnx.")
    ] = "config,safetensors,pt2,onnx",
    finetune: Annotated[
        float | None,
        typer.Option(min=0, help="Epochs of a fine-tune before, distilled, from the compressed dense weights on."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the export in a folder that is not empty.")] = False,
    device: Device = None,
    json_: AsJson = False,
) -> None:
    """Write a candidate of a run as files to deploy, each tried on test images."""
    from search import api
    from search.export.export import as_json

    made = api.export(
        run,
        pick=pick,
        to=to,
        formats=format_,
        finetune=finetune,
        force=force,
        device=device,
        show=Console(stderr=json_),
    )
    if json_:
        _print_json(as_json(made))


@app.command()
def methods(json_: AsJson = False) -> None:
    """The compression methods."""
    from methods.compose import how_to_compose
    from methods.registry import methods as known
    from search.terminal.show_small import show_records

    show_records(known(), ("name", "summary", "source"), as_json=json_)
    if not json_:
        print(f"\nTwo methods make one: {how_to_compose(known().values())}.")


@app.command()
def strategies(json_: AsJson = False) -> None:
    """The search strategies."""
    from search.strategy import strategies as known
    from search.terminal.show_small import show_records

    show_records(known(), ("name", "summary", "source"), as_json=json_)


@app.command()
def networks(json_: AsJson = False) -> None:
    """The networks that go by a name."""
    from models.networks import network_names

    names = network_names()
    _print_json(names) if json_ else print("\n".join(names))


def _end(result: Any, *, as_json: bool) -> None:
    if as_json:
        _print_json(result.record)
    if not result.complete:
        raise typer.Exit(130)


def _command_line() -> str:
    return shlex.join(["python", "run_search.py", *sys.argv[1:]])


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def main() -> None:
    """Run the command line; a user's mistake is one sentence on stderr and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        _refuse(str(error))
    except OSError as error:  # a folder that cannot be written, a full disk
        _refuse(f"{error.filename or 'a file'} cannot be used: {error.strerror or error}")
    except typer.Abort:
        sys.exit(130)
    except TyperException as error:  # an option or command that does not exist, a value out of its range
        _refuse(" ".join(error.format_message().split()))
    sys.exit(code if isinstance(code, int) else 0)


def _refuse(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()

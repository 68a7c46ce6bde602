"""The command line: parse, build, run. `python run_search.py` alone searches on the embedded data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from search.machine.last_words import last_words
from search.machine.signals import handle_signals, raise_interrupt
from search.settings import bounds
from search.settings.groups import takes_groups
from search.settings.options import (
    AsJson,
    Device,
    LedgerSpec,
    PlanOptions,
    RecipeOptions,
    RunOptions,
    Seed,
    TaskOptions,
    TrainOptions,
)
from search.terminal.arguments import take_arguments
from search.terminal.console import PlainConsole
from search.terminal.failures import INTERRUPTED, report_failure
from search.terminal.lists import methods, networks, strategies
from search.terminal.streams import flush_streams, json_output, prepare_streams

app = typer.Typer(
    add_completion=False,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    help="Search the compression level of every layer of a CNN for a FLOPs budget.",
)

Method = Annotated[str, typer.Option(help="A name from `methods`, or two that compose: l1+kse.")]
Resume = Annotated[
    str | None, typer.Option(metavar="PATH", help="A run's folder: go on with it; other options are ignored.")
]
RetryFailed = Annotated[bool, typer.Option(help="Judge failed candidates of the ledger again.")]


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """Without a sub-command: a search on the embedded digits, on a baseline trained in seconds."""
    if context.invoked_subcommand is None:
        print("ratio-search on the embedded digits: a small network is trained once, then compressed to three budgets.")
        print("About half a minute on two idle cores. Loading ...", flush=True)
        from search import api
        from search.settings.command import command_line
        from search.settings.demo import demo_config

        _end(api.run_config(demo_config("results"), show=PlainConsole(), command=command_line(sys.argv[1:])))


@app.command()
@takes_groups
def search(
    task: TaskOptions,
    plan: PlanOptions,
    recipe: RecipeOptions,
    run: RunOptions,
    method: Method = "l1",
    strategy: Annotated[str, typer.Option(help="Comma-separated names.")] = "acra-uniform,acra-sensitivity",
    final_seeds: Annotated[int, typer.Option(min=1, max=bounds.MOST_REPEATS)] = 3,
    finalists: Annotated[
        int, typer.Option(min=0, max=bounds.MOST_REPEATS, help="Per target; 0 leaves the test set alone.")
    ] = 1,
    warm_start: Annotated[
        bool, typer.Option(help="Sampling begins with what the ledger knows and the other strategies' points.")
    ] = True,
    resume: Resume = None,
    retry_failed: RetryFailed = False,
    json_: AsJson = False,
) -> None:
    """Search an allocation for each FLOPs target, fine-tune, and leave a report."""
    from search import api
    from search.settings.command import command_line

    with json_output(json_) as write_json:
        result = api.search(
            method=method,
            strategy=strategy,
            final_seeds=final_seeds,
            finalists=finalists,
            warm_start=warm_start,
            resume=resume,
            retry_failed=retry_failed,
            show=PlainConsole(stderr=json_),
            command=command_line(sys.argv[1:]),
            **task.typed(),
            **plan.typed(),
            **recipe.typed(),
            **run.typed(),
        )
        write_json(result.record)
    _end(result)


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
    from search.terminal.show_plan import show_plan

    with json_output(json_) as write_json:
        planned = api.plan(method=method, strategy=strategy, **task.typed(), **plan.typed())
        if not json_:
            show_plan(planned.record, PlainConsole())
        write_json(planned.record)


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
    seeds: Annotated[
        int, typer.Option(min=1, max=bounds.MOST_REPEATS, help="Of every finalist; one alone has no known noise.")
    ] = 3,
    resume: Resume = None,
    retry_failed: RetryFailed = False,
    json_: AsJson = False,
) -> None:
    """Every method × strategy × target, the best of each tested with several seeds; then the leaderboard."""
    from search import api
    from search.terminal.console import wide_console

    with json_output(json_) as write_json:
        result = api.compare(
            methods=methods_,
            strategies=strategies_,
            seeds=seeds,
            resume=resume,
            retry_failed=retry_failed,
            show=wide_console(sys.stderr if json_ else sys.stdout),
            **task.typed(),
            **plan.typed(),
            **recipe.typed(),
            **run.typed(),
        )
        write_json(result.record)
    _end(result)


@app.command()
@takes_groups
def leaderboard(
    task: Annotated[list[str] | None, typer.Option(help="Title or fingerprint; repeatable; default all.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Show these alone; repeatable.")] = None,
    strategy: Annotated[list[str] | None, typer.Option(help="Show these alone; repeatable.")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Show these alone, as in --target-flops; repeatable.")
    ] = None,
    sort: Annotated[str | None, typer.Option(help="A column of the CSV; with - before it, falling.")] = None,
    format_: Annotated[str, typer.Option("--format", help="table, csv, md, tex, html or json.")] = "table",
    to: Annotated[
        str | None, typer.Option(metavar="PATH", help="A file; html goes to <results>/leaderboard.html by itself.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --to if it is there.")] = False,
    reported: Annotated[bool, typer.Option(help="Papers' figures beside: labelled, not ranked.")] = False,
    verify: Annotated[str | None, typer.Option(help="A row: judge its stored weights on the test set again.")] = None,
    device: Device = None,
    ledger: LedgerSpec = None,
    results: Annotated[str, typer.Option(help="Where runs, the ledger and baselines lie.")] = "results",
) -> None:
    """What is known of tasks: every method and strategy on the test set, ranked as far as the noise allows."""
    from search import api
    from search.files.output_file import check_output_file
    from search.leaderboard.forms import boards_record, check_format
    from search.leaderboard.rich_tables import print_boards
    from search.terminal.console import wide_console

    check_format(format_)
    if to is not None:
        check_output_file(Path(to), force=force)
    where: dict[str, Any] = {"task": task or [], "results": results, "ledger": ledger}
    rows: dict[str, Any] = {"method": method or [], "strategy": strategy or [], "target": target or []}
    with json_output(format_ == "json" and (to is None or verify is not None)) as write_json:
        if verify is not None:
            verified = api.verify(verify, device=device, show=wide_console(sys.stdout), **where)
            write_json(verified.record)
            raise typer.Exit(0 if verified.holds else 1)
        board = api.leaderboard(sort=sort, reported=reported, **rows, **where)
        if to is not None or format_ == "html":
            path = board.write(to or Path(results) / "leaderboard.html", format_, force=force or to is None)
            print(f"leaderboard in {path}")
        elif format_ == "table":
            print_boards(board.boards, wide_console(sys.stdout), with_reported=reported)
        elif format_ == "json":
            write_json(boards_record(board.boards, reported))
        else:
            print(board.text(format_), end="")


@app.command()
@takes_groups
def train(
    task: TaskOptions,
    recipe: TrainOptions,
    out: Annotated[
        str, typer.Option(metavar="PATH", help="Where the weights go: .safetensors, or .pt as torch.save writes it.")
    ],
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    device: Device = None,
    json_: AsJson = False,
) -> None:
    """Train a dense baseline on the fine-tuning part; its search split stays unseen."""
    from search import api

    with json_output(json_) as write_json:
        console = PlainConsole(stderr=json_)
        made = api.train(out=out, seed=seed, device=device, force=force, show=console, **task.typed(), **recipe.typed())
        write_json({"weights": str(made.weights), "accuracy": dict(made.accuracy), "notices": list(made.notices)})


@app.command()
@takes_groups
def export(
    run: Annotated[str, typer.Argument(help="A run's folder, or its name below results.")],
    pick: Annotated[
        str, typer.Option(help="best, knee, smallest, a target (its best), or the beginning of a candidate's name.")
    ] = "best",
    to: Annotated[str | None, typer.Option(metavar="PATH", help="Folder to write; default RUN/export.")] = None,
    format_: Annotated[
        str, typer.Option("--format", help="Comma-separated: config, safetensors, pt2, onnx.")
    ] = "config,safetensors,pt2,onnx",
    finetune: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=bounds.MOST_EPOCHS,
            help="Epochs of a fine-tune before, distilled, from the compressed dense weights on.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the export in a folder that is not empty.")] = False,
    device: Device = None,
    json_: AsJson = False,
) -> None:
    """Write a candidate of a run as files to deploy, each tried on test images."""
    from search import api
    from search.export.export import as_json

    with json_output(json_) as write_json:
        made = api.export(
            run,
            pick=pick,
            to=to,
            formats=format_,
            finetune=finetune,
            force=force,
            device=device,
            show=PlainConsole(stderr=json_),
        )
        write_json(as_json(made))


for list_command in (methods, strategies, networks):
    app.command()(takes_groups(list_command))


def _end(result: Any) -> None:
    if not result.complete:  # which it has said
        raise SystemExit(INTERRUPTED)


def main() -> None:
    """Run the command line; whatever goes wrong is one sentence on standard error (`search.terminal.failures`)."""
    prepare_streams()
    try:
        arguments = take_arguments()  # before a second process shows them as its own until it has started
        with handle_signals(raise_interrupt), last_words():
            code = app(args=arguments, standalone_mode=False)
        if code == INTERRUPTED:  # typer's answer to Ctrl-C
            report_failure(KeyboardInterrupt())
        flush_streams()
    except SystemExit as end:  # typer's own, of a pipe that nobody reads
        code = report_failure(end.__context__) if isinstance(end.__context__, BrokenPipeError) else end.code
    except BaseException as error:  # KeyboardInterrupt too
        code = report_failure(error)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()

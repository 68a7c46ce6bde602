"""The command line: parse, build, run. `python run_search.py` alone searches on the embedded data."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import typer

from search.export.settings import EXPORT
from search.kit.settings import MEASURE
from search.leaderboard.settings import LEADERBOARD, LEADERBOARD_COMMAND, VERIFY
from search.machine.last_words import last_words
from search.machine.permanent_imports import permanent_imports
from search.machine.signals import interrupt_on_signals
from search.settings.commands import COMPARE, PLAN, SEARCH, TRAIN
from search.settings.flags import AsJson, takes_settings
from search.settings.setting import read_settings
from search.terminal.arguments import take_arguments
from search.terminal.console import PlainConsole
from search.terminal.failures import INTERRUPTED, report_failure
from search.terminal.lists import list_methods, list_networks, list_strategies
from search.terminal.streams import flush_streams, json_output, prepare_streams

app = typer.Typer(
    add_completion=False,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    help="Search the compression level of every layer of a CNN for a FLOPs budget.",
)


def load_api() -> ModuleType:
    """The use cases, with torch and all that they need; commands that list and help do without."""
    with permanent_imports():
        from search import api
    return api


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """Without a sub-command: a search on the embedded digits, on a baseline trained in seconds."""
    if context.invoked_subcommand is None:
        print("ratio-search on the embedded digits: a small network is trained once, then compressed to three budgets.")
        print("About half a minute on two idle cores. Loading ...", flush=True)
        from search.settings.demo import DEMO

        _end_command(load_api().search(**DEMO, show=PlainConsole()))


@app.command()
@takes_settings(SEARCH)
def search(json_: AsJson = False, **settings: Any) -> None:
    """Search an allocation for each FLOPs target, fine-tune, and leave a report."""
    api = load_api()

    with json_output(json_) as write_json:
        result = api.search(**settings, show=PlainConsole(stderr=json_))
        write_json(result.record)
    _end_command(result)


@app.command()
@takes_settings(PLAN)
def plan(json_: AsJson = False, **settings: Any) -> None:
    """Sites, allocation, predicted cost and reachable range; nothing is trained."""
    api = load_api()
    from search.terminal.show_plan import show_plan

    with json_output(json_) as write_json:
        planned = api.plan(**settings)
        if not json_:
            show_plan(planned.record, PlainConsole())
        write_json(planned.record)


@app.command()
@takes_settings(COMPARE)
def compare(json_: AsJson = False, **settings: Any) -> None:
    """Every method × strategy × target, the best of each tested with several seeds; then the leaderboard."""
    api = load_api()
    from search.terminal.console import wide_console

    with json_output(json_) as write_json:
        result = api.compare(**settings, show=wide_console(sys.stderr if json_ else sys.stdout))
        write_json(result.record)
    _end_command(result)


@app.command()
@takes_settings(LEADERBOARD_COMMAND)
def leaderboard(**settings: Any) -> None:
    """What is known of tasks: every method and strategy on the test set, ranked as far as the noise allows."""
    api = load_api()
    from search.files.output_file import check_output_file
    from search.leaderboard.forms import boards_record
    from search.leaderboard.rich_tables import print_boards
    from search.terminal.console import wide_console

    values = read_settings(LEADERBOARD_COMMAND, settings)
    form, to, force, row_id = values["format"], values["to"], values["force"], values["verify"]
    if to is not None:
        check_output_file(Path(to), force=force)
    with json_output(form == "json" and (to is None or row_id is not None)) as write_json:
        if row_id is not None:
            chosen = {name: values[name] for name in VERIFY if name in values}
            verified = api.verify(row_id, show=wide_console(sys.stdout), **chosen)
            write_json(verified.record)
            raise typer.Exit(0 if verified.holds else 1)
        board = api.leaderboard(**{name: values[name] for name in LEADERBOARD})
        if to is not None or form == "html":
            path = board.write(to or Path(values["results"]) / "leaderboard.html", form, force=force or to is None)
            print(f"leaderboard in {path}")
        elif form == "table":
            print_boards(board.boards, wide_console(sys.stdout), with_reported=board.with_reported)
        elif form == "json":
            write_json(boards_record(board.boards, board.with_reported))
        else:
            print(board.text(form), end="")


@app.command()
@takes_settings(TRAIN)
def train(json_: AsJson = False, **settings: Any) -> None:
    """Train a dense baseline on the fine-tuning part; its search split stays unseen."""
    api = load_api()

    with json_output(json_) as write_json:
        trained = api.train(**settings, show=PlainConsole(stderr=json_))
        figures = {trained.metric.name: dict(trained.scores), "notices": list(trained.notices)}
        write_json({"weights": str(trained.weights), **figures})


@app.command()
@takes_settings(EXPORT)
def export(json_: AsJson = False, **settings: Any) -> None:
    """Write a candidate of a run as files to deploy, each tried on test images."""
    api = load_api()
    from search.export.export import as_json

    with json_output(json_) as write_json:
        write_json(as_json(api.export(**settings, show=PlainConsole(stderr=json_))))


latency_app = typer.Typer(no_args_is_help=False, help="Times of layers on the device where networks are deployed.")
app.add_typer(latency_app, name="latency")


@latency_app.command()
@takes_settings(MEASURE)
def measure(json_: AsJson = False, **settings: Any) -> None:
    """Write a kit of small ONNX files, which a script measures on any device with Python and onnxruntime."""
    api = load_api()

    with json_output(json_) as write_json:
        kit = api.measure_latency(**settings, show=PlainConsole(stderr=json_))
        write_json(kit.summary)


app.command("methods")(list_methods)
app.command("strategies")(list_strategies)
app.command("networks")(list_networks)


def _end_command(result: Any) -> None:
    if not result.complete:  # which it has said
        raise SystemExit(INTERRUPTED)


def main() -> None:
    """Run the command line; whatever goes wrong is one sentence on standard error (`search.terminal.failures`)."""
    prepare_streams()
    try:
        arguments = take_arguments()  # before a second process shows them as its own until it has started
        with interrupt_on_signals(), last_words():
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

"""What the pages show is true: commands parse and run, outputs have the words that are shown, links lead somewhere."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from markdown_pages import (
    PAGES,
    ROOT,
    Block,
    Command,
    code_spans,
    page_anchors,
    page_blocks,
    page_commands,
    page_links,
    page_name,
)

import run_search
from search import api
from search.export.settings import EXPORT
from search.leaderboard.settings import LEADERBOARD_COMMAND
from search.settings.commands import COMPARE, PLAN, SEARCH, TRAIN

PARSER = typer.main.get_command(run_search.app)
# The page of figures has commands that take hours, and options of the scripts in benchmarks/.
GUIDES = [page for page in PAGES if page.parent.name != "results"]
COMMANDS = [command for page in PAGES for command in page_commands(page)]
# Commands that need what a test does not have -> the sentence that says so, after all options were accepted.
MISSING = {
    "cifar10": "cifar10 is not in .* and could not be downloaded",
    "imagefolder:my/images": "there is no folder .*my/images",
    "--gpus-per-worker": "GPUs for each worker were asked for",
    "--ray-address": "no Ray cluster answers at 'HOST:6379'",
    "postgresql://": "ledger postgresql://user@host/db cannot be used",
    "--verify": "unknown row",
}
SETTINGS = {"search": SEARCH, "compare": COMPARE, "plan": PLAN, "train": TRAIN, "export": EXPORT,
            "leaderboard": LEADERBOARD_COMMAND}  # fmt: skip
OTHER_PROGRAMS = ("ray ", "pip ", ".venv/bin/pip ", "optuna-dashboard ", "make ", "git ", "python benchmarks/")


def parse_arguments(arguments: list[str]) -> None:
    """What the command line does with arguments before any work: raises for an unknown command, option or value."""
    with PARSER.make_context("run_search.py", list(arguments), resilient_parsing=False) as context:
        rest = [*context._protected_args, *context.args] if hasattr(context, "_protected_args") else context.args
        if rest:
            name, command, rest = PARSER.resolve_command(context, rest)
            given = command.make_context(name, rest, parent=context).params
            for setting in SETTINGS.get(name, {}).values():
                if given[setting.name] not in (None, []):
                    setting.read_value(given[setting.name])


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_shown_command_is_understood(command: Command) -> None:
    if "--help" not in command.arguments:
        parse_arguments(list(command.arguments))


def test_what_is_wrong_is_not_understood() -> None:
    for wrong in (["plan", "--target-flop", "0.5"], ["serch"], ["search", "--epochs", "many"], ["export"]):
        with pytest.raises(Exception, match=r"(?i)no such|valid|missing"):
            parse_arguments(wrong)


def known_options() -> set[str]:
    with PARSER.make_context("run_search.py", ["methods"]) as context:
        commands = [PARSER.get_command(context, name) for name in PARSER.list_commands(context)]
        groups = [command for command in commands if hasattr(command, "list_commands")]
        commands += [group.get_command(context, name) for group in groups for name in group.list_commands(context)]
    return {option for command in commands for parameter in command.params
            for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}  # fmt: skip


@pytest.mark.parametrize("page", GUIDES, ids=page_name)
def test_options_in_running_text_exist(page: Path) -> None:
    spans = [span for span in code_spans(page) if not span.startswith(OTHER_PROGRAMS)]
    named = {option for span in spans for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", span)}
    assert not named - known_options()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in page_links(page):
        if re.match(r"[a-z]+://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in page_anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_files_and_names_of_the_code_exist(page: Path) -> None:
    for span in code_spans(page):
        if re.fullmatch(r"(search|methods|models|tests|benchmarks|examples)/[\w/]*(\.py)?", span):
            assert (ROOT / span).exists(), span
        if match := re.fullmatch(r"((?:search|methods|models)(?:\.\w+)*)\.(\w+)(\(.*\))?", span):
            module, name = importlib.import_module(match[1]), match[2]
            assert hasattr(module, name) or importlib.util.find_spec(f"{match[1]}.{name}"), span


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in page_links(ROOT / "README.md")}
    assert {page for page in PAGES if page.name != "README.md"} <= linked


@pytest.mark.parametrize("command", ["search", "compare"])
def test_the_files_of_a_run_are_those_that_the_page_names(command: str, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    always, _, sometimes = page.partition("## A run's folder")[2].partition("## When")[0].partition("Some are there")
    named = [set(re.findall(r"`([\w.]+)/?`", re.sub(r"\|[^|]*\|$", "", part, flags=re.MULTILINE))) for part in
             (always, sometimes)]  # fmt: skip
    result = getattr(api, command)(
        "small", targets=0.5, train_images=100, epochs=0, workers=0, device="cpu", results=tmp_path, show=False
    )
    left = {path.name for path in result.folder.iterdir()}
    assert named[0] <= left <= named[0] | named[1]


def test_make_has_the_targets_that_pages_name() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = "\n".join([*(block.text for page in PAGES for block in page_blocks(page)),
                       *(span for page in PAGES for span in code_spans(page))])  # fmt: skip
    named = set(re.findall(r"^make (\w+)", shown, re.MULTILINE))
    assert {"run", "test"} <= named <= targets


PYTHON = [block for page in PAGES for block in page_blocks(page) if block.kind == "python"]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"{page_name(block.page)}:{block.line}")
def test_python_is_valid_and_calls_what_there_is(block: Block) -> None:
    for call in (node for node in ast.walk(ast.parse(block.text)) if isinstance(node, ast.Call)):
        function = call.func
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "api":
            parameters = inspect.signature(getattr(api, function.attr)).parameters
            assert {word.arg for word in call.keywords} <= set(parameters), function.attr


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_api_names_in_running_text_exist(page: Path) -> None:
    for span in code_spans(page):
        for name in re.findall(r"\bapi\.(?!py)(\w+)", span):
            assert hasattr(api, name), span


def run_program(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    nowhere = "http://127.0.0.1:9"  # a page that downloads says that it cannot
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200",
                   "http_proxy": nowhere, "https_proxy": nowhere}  # fmt: skip
    return subprocess.run(words, capture_output=True, text=True, cwd=folder, env=environment)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", GUIDES, ids=page_name)
def test_page_is_followed_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    """All files that the page shows, then all its commands in one folder, then its Python."""
    blocks = [block for block in page_blocks(page) if block.kind == "python"]
    for block in blocks:
        if block.file is not None:
            (tmp_path / block.file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / block.file).write_text(block.text)
    for command in page_commands(page):
        check_outcome(
            command, run_program([sys.executable, str(ROOT / "run_search.py"), *quick_arguments(command)], tmp_path)
        )
    script = "\n".join(block.text for block in blocks if block.file is None)
    if script:
        done = run_program([sys.executable, "-c", script], tmp_path)
        assert done.returncode == 0, done.stderr


def quick_arguments(command: Command) -> list[str]:
    """The arguments; where Ray is not what the command is about, without the seconds that it takes to start."""
    named = {"--ray-address", "--workers", "--help"} & {*command.arguments}
    works = command.arguments[:1] in (("search",), ("compare",)) and not named
    return [*command.arguments, *(["--workers", "0"] if works else [])]


def check_outcome(command: Command, done: subprocess.CompletedProcess[str]) -> None:
    missing = [sentence for word, sentence in MISSING.items() if any(word in part for part in command.arguments)]
    if done.returncode == 2 and missing:
        assert re.search(missing[0], done.stderr), (str(command), done.stderr)
        return
    assert done.returncode == 0, (str(command), done.stdout, done.stderr)
    if command.output is None:
        return
    printed = f"{done.stdout}\n{done.stderr}"
    if command.output.kind == "text exact":
        lines = [line.rstrip() for line in command.output.text.splitlines() if line != "..."]
        assert not set(lines) - {line.rstrip() for line in printed.splitlines()}, str(command)
    else:  # figures differ from machine to machine
        assert not words_of(command.output.text) - words_of(printed), str(command)


def words_of(text: str) -> set[str]:
    """Words of three letters and more; not names that are made of hashes and the time, nor units beside figures."""
    return set(re.findall(r"(?<![\w.])[A-Za-z]{3,}(?![\w])", text))

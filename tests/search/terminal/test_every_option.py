"""Every option of every command, found by walking the program: no empty text, no number that can only be a slip."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer

import run_search
from models.errors import UserError
from search import api

# What a command needs besides the option under test so as to reach its own checks.
NEEDED = {
    "search": ["--network", "small", "--workers", "0", "--device", "cpu"],
    "compare": ["--network", "small", "--workers", "0", "--device", "cpu"],
    "plan": ["--network", "resnet20"],
    "train": ["--network", "small", "--out", "trained.safetensors"],
    "export": ["some-run"],
    "latency measure": ["--network", "resnet20", "--to", "kit"],
}
SLIPS = ["nan", "inf", "-inf", "-1", "1e400", "1" + "0" * 30, "1" + "0" * 5000]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def commands() -> Iterator[tuple[str, typer.models.CommandInfo]]:
    """Every command by its words: `plan`, `latency measure`."""
    groups = [("", run_search.app)]
    for group in run_search.app.registered_groups:
        assert group.typer_instance is not None
        groups.append((f"{group.name} ", group.typer_instance))
    for prefix, app in groups:
        for command in app.registered_commands:
            assert command.callback is not None
            yield f"{prefix}{command.name or command.callback.__name__}", command


def options(numeric: bool) -> Iterator[tuple[str, str]]:
    """(command, option) of all commands and options that take numbers, or that take texts."""
    for words, command in commands():
        assert command.callback is not None
        hints = get_type_hints(command.callback, include_extras=True)
        for name in inspect.signature(command.callback).parameters:
            kind, info = get_args(hints[name])[:2]
            is_value = isinstance(info, typer.models.OptionInfo) and bool not in (kind, *get_args(kind))
            if is_value and (info.metavar in ("INTEGER", "FLOAT")) == numeric:
                yield words, str(info.default)  # in Annotated, typer keeps the flag there


def refusal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr("sys.argv", ["run_search.py", *arguments[0].split(), *arguments[1:]])
    with pytest.raises(SystemExit) as ended:
        run_search.main()
    out, err = capsys.readouterr()
    assert ended.value.code == 2, err[-2000:]
    assert out == ""
    assert "Traceback" not in err
    line = err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert len(line) < 1600
    return line


NUMERIC = list(options(numeric=True))
TEXTS = list(options(numeric=False))


def test_the_walk_finds_them() -> None:
    assert {("search", "--workers"), ("compare", "--seeds"), ("export", "--finetune"), ("train", "--lr")} <= {*NUMERIC}
    assert {("search", "--resume"), ("train", "--out"), ("export", "--to"), ("plan", "--option")} <= {*TEXTS}
    assert len(NUMERIC) > 40
    assert len(TEXTS) > 50


def test_every_option_of_every_command_is_explained() -> None:
    program = typer.main.get_command(run_search.app)
    with program.make_context("run_search.py", ["methods"]) as context:
        for words, _ in commands():
            command = program
            for name in words.split():
                command = command.get_command(context, name)
            assert command.help
            texts = {parameter.name: parameter.help for parameter in command.params}
            assert {"json_"} <= texts.keys() or words == "leaderboard"
            for option, text in texts.items():
                assert text, f"{words} --{option} has no help"
                assert text[0].isupper(), f"{words} --{option}: {text}"
                assert text.endswith((".", ")")), f"{words} --{option}: {text}"
            assert len({*texts.values()}) == len(texts), f"two options of {words} have the same help"
            shown = [parameter.metavar for parameter in command.params if parameter.metavar]
            assert not [metavar for metavar in shown if "None" in metavar]


@pytest.mark.parametrize(("command", "option"), NUMERIC)
def test_numbers_that_make_no_sense(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, option: str
) -> None:
    for value in SLIPS:
        needed = [*NEEDED[command]]
        if option in needed:
            at = needed.index(option)
            del needed[at : at + 2]
        sentence = refusal(capsys, monkeypatch, command, *needed, f"{option}={value}")
        assert sentence.startswith(f"error: {option} {value[:20]}")
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(("command", "option"), TEXTS)
def test_empty_texts_are_no_defaults(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, option: str
) -> None:
    for value in ("", " "):
        sentence = refusal(capsys, monkeypatch, command, *NEEDED.get(command, []), option, value)
        assert f"{option} {value!r} is empty" in sentence
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("name", ["search", "compare", "plan", "train", "export", "leaderboard", "verify", "open_run"])
def test_the_same_from_python(name: str) -> None:
    call = getattr(api, name)
    positional = {"export": ("run",), "verify": ("row",), "open_run": ("run",)}.get(name, ())
    needed = {"train": {"out": "trained.safetensors"}}.get(name, {})
    for keyword, parameter in inspect.signature(call).parameters.items():
        if keyword in ("show", "command") or (keyword == "network" and positional):
            continue
        arguments = () if keyword in positional else positional
        wrong: list[Any] = ["", "\0", object()]
        wrong += [None] if parameter.default is not None else []
        wrong += [True] if "bool" not in str(parameter.annotation) else ["yes", 1]
        wrong += ["x"] if "int" in str(parameter.annotation) or "float" in str(parameter.annotation) else []
        for value in wrong:
            with pytest.raises(UserError, match=f"^{keyword} ") as refused:
                call(*arguments, **{**needed, keyword: value})
            assert "--" not in str(refused.value)
            assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    "option", ["alpha=1e400", "alpha=-1e400", "alpha=NaN", "alpha=Infinity", "rank=1" + "0" * 5000]
)
def test_options_of_methods(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    arguments = [*NEEDED["plan"], "--method", "kse", "--option", option]
    sentence = refusal(capsys, monkeypatch, "plan", *arguments)
    assert option.partition("=")[0] in sentence


@pytest.mark.parametrize("option", ["--target-flops", "--target-params", "--target-bytes", "--target-latency"])
@pytest.mark.parametrize("unit", ["", "%", "M", "x"])
def test_targets(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, option: str, unit: str) -> None:
    for value in ("nan", "inf", "-1", "1e400", "9" * 30, "9" * 400):
        sentence = refusal(capsys, monkeypatch, "plan", *NEEDED["plan"], f"{option}={value}{unit}")
        assert value in sentence


@pytest.mark.parametrize(
    ("option", "value"),
    [("--mean", "inf,0,0"), ("--mean", "nan,0,0"), ("--std", "inf,1,1"), ("--std", "1e400,1,1"),
     ("--round-channels", "1" + "0" * 30), ("--round-channels", "9" * 5000), ("--bound", "*=nan..1"),
     ("--bound", f"*=0.1..{'9' * 400}"), ("--rungs", "0,inf"), ("--rungs", "nan,1"), ("--rungs", "0,1e9")],
)  # fmt: skip
def test_numbers_within_texts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, option: str, value: str
) -> None:
    command, more = ("search", ["--strategy", "tpe"]) if option == "--rungs" else ("plan", [])
    sentence = refusal(capsys, monkeypatch, command, *NEEDED[command], *more, f"{option}={value}")
    assert option.strip("-") in sentence

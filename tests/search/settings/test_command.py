"""Printed commands lead back to what they stand for, whatever the names: by bash, and by our own command line."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import run_search
from models.task import TaskConfig
from search.settings.command import command_line, export_command, resume_command, run_command
from search.settings.config import RunConfig
from search.settings.shell import shell_line

NAMES = ["-dash", "--json", "a b", "it's", 'say "x"', "$(touch x)", "`x`", "a;b", "a\\b", "naïve 名前", "*", "~", "#a",
         "new\nline", "tab\t", "bell\a", "escape\x1b[2J", "bytes\udcff", "!x", "a=b", "%s", ""]  # fmt: skip


def bash_words(line: str) -> list[str]:
    """The words that bash makes of a line, without running it."""
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    return [word.decode("utf-8", "surrogateescape") for word in done.stdout.split(b"\0")[:-1]]


@pytest.mark.parametrize("name", NAMES)
def test_bash_reads_the_words_back(name: str) -> None:
    words = ["python", name, f"--name={name}", "end"]
    line = shell_line(words)
    assert bash_words(line) == words
    assert line.isprintable()
    if line.find("$'") < 0:
        assert shlex.split(line) == words
    assert bash_words(command_line([name])) == ["python", "run_search.py", name]


@pytest.mark.parametrize("name", [name for name in NAMES if name])
def test_our_commands_are_read_back(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    given = RunConfig(
        task=TaskConfig(network=f"{name}.py:make", weights=name, data=f"imagefolder:{name}", data_root=name),
        results=name, ledger=str(tmp_path / name), name="x",
    )  # fmt: skip
    calls: dict[str, object] = {}
    result = SimpleNamespace(record={}, complete=True)
    monkeypatch.setattr("search.api.run_config", lambda config, **_: calls.update(config=config) or result)
    words = bash_words(run_command(given))[2:]
    done = CliRunner().invoke(run_search.app, [*words, "--name", "x"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert calls["config"] == given.model_copy(update={"task": given.task.with_absolute_paths()})

    for command in ("search", "compare"):
        monkeypatch.setattr(f"search.api.{command}", lambda **options: calls.update(options) or result)
        words = bash_words(resume_command(given.model_copy(update={"comparison": command == "compare"})))[2:]
        assert CliRunner().invoke(run_search.app, words, catch_exceptions=False).exit_code == 0
        assert calls["resume"] == str(given.folder)
    monkeypatch.setattr("search.api.export", lambda run, **options: calls.update(options, run=run) or result)
    monkeypatch.setattr("search.export.export.as_json", lambda made: {})
    assert CliRunner().invoke(run_search.app, bash_words(export_command(given))[2:]).exit_code == 0
    assert Path(str(calls["run"])) == given.folder
    assert calls["to"] == f"{given.folder}/export"

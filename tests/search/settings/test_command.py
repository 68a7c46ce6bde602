"""Printed commands lead back to what they stand for, whatever the names: by bash, and by our own command line."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.testing import CliRunner

import run_search
from models.task_config import TaskConfig
from models.user.spec_names import OWN_DATA
from search.settings.command import export_command, resume_command, run_command
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


def parsed_config(line: str, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """The configuration that the real command line makes of a printed command, under the run name `x`."""
    monkeypatch.setattr("sys.argv", [*bash_words(line)[1:], "--name", "x"])
    with monkeypatch.context() as patch:
        configs: list[RunConfig] = []
        result = SimpleNamespace(record={}, complete=True)
        patch.setattr("search.api.run_config", lambda config, **_: configs.append(config) or result)
        with pytest.raises(SystemExit) as ended:
            run_search.main()
    assert ended.value.code == 0
    (config,) = configs
    return config


@pytest.mark.parametrize("name", [name for name in NAMES if name])
def test_our_commands_are_read_back(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    given = RunConfig(
        task=TaskConfig(network=f"{name}.py:make", weights=name, data=f"imagefolder:{name}", data_root=name),
        results=name, ledger=str(tmp_path / name), name="x",
    )  # fmt: skip
    assert parsed_config(run_command(given), monkeypatch) == given.model_copy(
        update={"task": given.task.with_absolute_paths()}
    )

    calls: dict[str, object] = {}
    result = SimpleNamespace(record={}, complete=True)
    for command in ("search", "compare"):
        config = given.model_copy(update={"comparison": command == "compare"})
        monkeypatch.setattr(f"search.api.{command}", lambda **options: calls.update(options) or result)
        words = bash_words(resume_command(config))[2:]
        assert words[0] == command
        assert CliRunner().invoke(run_search.app, words, catch_exceptions=False).exit_code == 0
        assert calls["resume"] == str(given.folder)
    monkeypatch.setattr("search.api.export", lambda **options: calls.update(options))
    monkeypatch.setattr("search.export.export.as_json", lambda made: {})
    assert CliRunner().invoke(run_search.app, bash_words(export_command(given, "best"))[2:]).exit_code == 0
    assert Path(str(calls["run"])) == given.folder
    assert calls["to"] == f"{given.folder}/export"


# ---- every field of a configuration


SPECIAL: dict[tuple[str, ...], Any] = {
    ("task", "network"): "resnet20",
    ("task", "data"): "cifar100",
    ("task", "weights"): "/weights/a b.pt",
    ("task", "data_root"): "/data",
    ("task", "mean"): (0.1, -0.25, 1 / 3),
    ("task", "std"): (0.5, 1.0, 2e-5),
    ("methods",): ("kse",),
    ("options",): {"kse": {"alpha": 0.75}},
    ("strategies",): ("tpe", "random"),
    ("targets",): ("flops 0.5 + params 0.4", "flops 60M + params 2.5x"),
    ("latency_tables",): (str(Path(__file__).with_name("phone.json")),),
    ("constraints", "keep_dense"): ("-a", "layer1.*"),
    ("constraints", "bound"): ("layer3.*=0.25..0.75", "b=..0.5"),
    ("constraints", "round_channels"): ("8", "layer3.*=16"),
    ("recipe", "schedule"): "one-cycle",
    ("rungs",): (0.0, 0.25, 3.5),
    ("final_epochs",): 0.0,
    ("device",): "cpu",
    ("ray_address",): "host:6379",
    ("ledger",): "postgresql://user@host/db",
    ("results",): "elsewhere",
    ("name",): "x",
}
"""Values that a rule cannot find; numbers and switches are changed by `other_value`."""


def leaves(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, (*path, name))
        else:
            yield (*path, name), field


def other_value(path: tuple[str, ...], field: FieldInfo) -> Any:
    """A valid value that is not the default."""
    if path in SPECIAL:
        return SPECIAL[path]
    if isinstance(field.default, bool) or field.annotation == bool | None:
        return not field.default
    if isinstance(field.default, int):
        return field.default + 3
    return 7 if field.annotation == int | None else (field.default or 0.5) * 0.875


def with_values(values: Mapping[tuple[str, ...], Any]) -> RunConfig:
    """A configuration of these values; what it must have has the rules' own."""
    fields: dict[str, Any] = {}
    needed = {path: SPECIAL[path] for path in [("task", "network"), ("task", "data"), ("name",)]}
    if ("rungs",) in values:
        needed["recipe", "epochs"] = values["rungs",][-1]
    needed["task", "data_root"] = str(Path("data").absolute())
    needed["ledger",] = str((Path(values.get(("results",), "results")) / "ledger.db").absolute())
    for path, value in {**needed, **values}.items():
        place = fields
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = value
    return RunConfig(**fields)


# The code follows from names of files; a task of one's own stands in place of network and data.
FIELDS = {path: field for path, field in leaves(RunConfig) if path not in {("code",), ("task", "task")}}
NOT_OF_A_SEARCH = {("comparison",)}
NOT_OF_A_COMPARISON = {("warm_start",), ("finalists",)}


def test_the_walk_finds_all_fields() -> None:
    assert {("task", "crop"), ("recipe", "momentum"), ("constraints", "bound"), ("latency_batch",)} <= set(FIELDS)
    assert set(SPECIAL) <= set(FIELDS)
    default = with_values({})
    for path, field in FIELDS.items():
        assert with_values({path: other_value(path, field)} | ({("methods",): ("kse",)} if path == ("options",) else {})
                           ) != default or path in {("task", "network"), ("task", "data"), ("name",)}  # fmt: skip


@pytest.mark.parametrize("path", [path for path in FIELDS if path not in NOT_OF_A_SEARCH], ids=".".join)
def test_every_setting_is_printed_and_parsed_again(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    values = {path: other_value(path, FIELDS[path])}
    if path == ("options",):
        values["methods",] = ("kse",)
    config = with_values(values)
    assert parsed_config(run_command(config), monkeypatch) == config


def test_all_settings_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    search = {path: other_value(path, field) for path, field in FIELDS.items() if path not in NOT_OF_A_SEARCH}
    search["recipe", "epochs"] = search["rungs",][-1]
    config = with_values(search)
    assert parsed_config(run_command(config), monkeypatch) == config
    kept = {path: value for path, value in search.items() if path not in NOT_OF_A_COMPARISON}
    changes = {
        ("comparison",): True,
        ("warm_start",): False,
        ("methods",): ("kse", "l1+kse"),
        ("options",): {"kse": {"alpha": 0.25}, "l1+kse": {"kse.alpha": 0.75}},
    }
    config = with_values({**kept, **changes})
    assert parsed_config(run_command(config), monkeypatch) == config


def test_a_task_is_printed_in_place_of_network_and_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    task = str(tmp_path / "my task.py:build")
    config = with_values({("task", "task"): task, ("task", "network"): task, ("task", "data"): OWN_DATA})
    assert parsed_config(run_command(config), monkeypatch) == config
    assert bash_words(run_command(config))[2:5] == ["search", "--task", task]


def test_what_is_at_its_default_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert bash_words(run_command(with_values({})))[2:] == [
        "search", "--network", "resnet20", "--data", "cifar100", "--target-flops", "0.5", "--method", "l1",
        "--strategy", "acra-uniform,acra-sensitivity",
    ]  # fmt: skip

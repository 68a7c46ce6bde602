"""A damaged `run.json` is one sentence that names it, whichever command reads it and whatever damaged it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from board_fakes import filled

import run_search
from models.errors import UserError
from models.settings import naming_flags
from models.task_config import TaskConfig
from search import api
from search.engine.run_folder import claim_run_folder, resumed_config
from search.recipe import Recipe
from search.settings.config import RunConfig

TASK = "0123456789abcdef"
CONFIG = RunConfig(task=TaskConfig(network="small"), name="run", recipe=Recipe(epochs=2))
SOUND = {"schema": 2, "config": CONFIG.model_dump(mode="json"), "fingerprint": TASK, "host": {}}

DAMAGES: list[tuple[str, bytes, str]] = [
    ("empty", b"", "damaged .it is empty"),
    ("blank", b" \n", "damaged .it is empty"),
    ("zeros", bytes(512), "damaged .it is no JSON"),
    ("cut off", json.dumps(SOUND).encode()[:-40], "damaged .it is no JSON"),
    ("null", b"null", "damaged .it holds null"),
    ("list", b"[]", "damaged .it holds a list"),
    ("number", b"3", "damaged .it holds a number"),
    ("other text", b'\xff\xfe{\x00"\x00', "damaged .it is not UTF-8 text from byte 0"),
    ("deep", b'{"config": ' + b"[" * 200_000, "damaged .its values are nested too deeply"),
    ("no config", b"{}", "damaged .it names no config"),
    ("config of a kind", b'{"config": 3}', "damaged .its config is a number"),
    ("no search", b'{"config": {"searches": []}}', "damaged .it names no search"),
    ("searches of a kind", b'{"config": {"searches": {"a": 1}}}', "damaged .it names no search"),
]
READERS: dict[str, Callable[[Path], object]] = {
    "resumed_config": resumed_config,
    "open_run": api.open_run,
    "export": lambda folder: api.export(folder, show=False),
    "search(resume)": lambda folder: api.search(resume=folder, show=False),
    "compare(resume)": lambda folder: api.compare(resume=folder, show=False),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / "run").mkdir(parents=True)
    return tmp_path / "results" / "run"


def command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """The one sentence with which a command is refused."""
    monkeypatch.setattr(sys, "argv", ["run_search.py", *arguments])
    with pytest.raises(SystemExit) as end:
        run_search.main()
    captured = capsys.readouterr()
    assert (end.value.code, captured.out) == (2, "")
    (line,) = captured.err.splitlines()
    return line


@pytest.mark.parametrize(("content", "words"), [each[1:] for each in DAMAGES], ids=[each[0] for each in DAMAGES])
def test_whoever_reads_it_says_so(folder: Path, content: bytes, words: str) -> None:
    (folder / "run.json").write_bytes(content)
    for name, reader in READERS.items():
        with pytest.raises(UserError, match=rf"results/run/run.json is {words}.*; restore it from a copy") as refusal:
            reader(folder)
        assert "\n" not in str(refusal.value), name
    with pytest.raises(UserError, match=words):
        resumed_config("run")  # by its name below results
    with pytest.raises(UserError, match="there is no run in elsewhere/run"):
        resumed_config("run", "elsewhere")
    for naming, advice in ((nullcontext, "and name run: "), (naming_flags, "and --name run: ")):
        with naming(), pytest.raises(UserError, match=advice):
            resumed_config(folder)
    with claim_run_folder(folder, CONFIG):
        pass  # the search itself writes a damaged record anew


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_file_is_said_to_be_none(folder: Path, make: Callable[[Path], None]) -> None:
    make(folder / "run.json")
    for reader in (*READERS.values(), lambda folder: claim_run_folder(folder, CONFIG).__enter__()):
        with pytest.raises(UserError, match=r"run/run.json is a .* and not the record of a run; move it away"):
            reader(folder)


def test_a_link_to_nothing_is_a_run_that_cannot_be_read(folder: Path) -> None:
    (folder / "run.json").symlink_to("nowhere.json")
    for reader in READERS.values():
        with pytest.raises(UserError, match=r"run/run.json cannot be read \(No such file or directory\)"):
            reader(folder)


@pytest.mark.parametrize("change", [{"host": [1]}, {"fingerprint": None}, {"fingerprint": 7}])
def test_fields_of_another_kind(folder: Path, change: dict[str, object]) -> None:
    (folder / "run.json").write_text(json.dumps(SOUND | change))
    with pytest.raises(UserError, match=r"run.json is damaged \(.*(host|task)"):
        api.open_run(folder)


@pytest.mark.parametrize("arguments", [["search", "--resume"], ["compare", "--resume"], ["export"]])
def test_from_the_command_line(
    folder: Path, arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "run.json").mkdir()
    for name in ("results/run", "run"):
        line = command_line(capsys, monkeypatch, *arguments, name)
        assert "results/run/run.json is a folder" in line
        assert "did you mean" not in line


def test_a_leaderboard_shows_its_rows_and_names_the_damaged_run(folder: Path) -> None:
    path = folder.parent / "ledger.db"
    filled(str(path)).close()
    assert api.leaderboard(ledger=str(path), results=folder.parent).boards[0].notices == ()  # `some-run` is not there
    (folder.parent / "some-run").mkdir()
    (folder.parent / "some-run" / "run.json").write_text("null")
    board = api.leaderboard(ledger=str(path), results=folder.parent)
    (notice,) = board.boards[0].notices
    assert notice.startswith("rows of run some-run have no command: ")
    assert "some-run/run.json is damaged (it holds null" in notice
    assert len(board.table) == 6
    assert notice in board.text("json")

"""The last screens of searches and comparisons: where the files are, and what to do next."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from search import api
from search.terminal.console import PlainConsole


@pytest.mark.parametrize(
    ("command", "choices"),
    [(api.search, {"strategy": "acra-uniform"}), (api.compare, {"methods": "l1", "strategies": "acra-uniform"})],
    ids=["search", "compare"],
)
def test_every_run_ends_with_its_files_and_how_to_go_on(tmp_path: Path, command: Any, choices: dict[str, str]) -> None:
    console = PlainConsole(file=io.StringIO(), width=200)
    result = command(
        "small", targets=0.5, train_images=100, epochs=0, workers=0, device="cpu", results=tmp_path, name="run",
        show=console, **choices,
    )  # fmt: skip
    assert isinstance(console.file, io.StringIO)
    shown = dict(line.split(maxsplit=1) for line in console.file.getvalue().splitlines() if len(line.split()) > 1)
    assert shown["look"] == f"open {result.folder}/report.html in a browser"
    assert shown["export"] == f"python run_search.py export {result.folder} --pick best --to {result.folder}/export"
    names = shown["files"].removeprefix(f"{result.folder}/: ").split(", ")
    written = {path.name for path in result.folder.iterdir() if path.is_file()}
    assert {*names, "run.json"} == written

"""What was found out when data and network were read is on the first screen, in `run.json` and in the JSON record."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import run_search

NOTICE = "labels of data.py were counted from 1"
CODE = f"""
import numpy as np
from models.notices import add_notice

def data():
    add_notice({NOTICE!r})
    images = np.random.default_rng(0).integers(0, 256, (72, 8, 8), dtype=np.uint8)
    return images[:60], np.arange(60) % 3, images[60:], np.arange(12) % 3
"""
RUN = ["--epochs", "0", "--final-epochs", "0", "--workers", "0", "--device", "cpu", "--name", "run"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data.py").write_text(CODE)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    """What a command prints to stdout and to stderr."""
    before = sys.argv
    sys.argv = ["run_search.py", *arguments, "--network", "small", "--data", "data.py:data"]
    try:
        run_search.main()
    except SystemExit as stop:
        if stop.code:
            raise
    finally:
        sys.argv = before
    captured = capsys.readouterr()
    return captured.out, captured.err


@pytest.mark.parametrize(
    "command",
    [
        ["search", "--strategy", "acra-uniform", *RUN],
        ["compare", "--methods", "l1", "--strategies", "acra-uniform", "--seeds", "1", *RUN],
    ],
    ids=["search", "compare"],
)
def test_runs_say_and_keep_it(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    record, screen = run(capsys, *command, "--json")
    first_screen, _, _ = screen.partition("resume    ")
    assert f"note      {NOTICE}\n" in first_screen
    assert json.loads(record)["notices"] == [NOTICE]
    assert json.loads(Path("results/run/run.json").read_text())["notices"] == [NOTICE]


@pytest.mark.parametrize("strategy", ["acra-uniform", "acra-sensitivity"])  # without data and with it
def test_plans_say_it(capsys: pytest.CaptureFixture[str], strategy: str) -> None:
    screen, _ = run(capsys, "plan", "--strategy", strategy)
    assert f"note: {NOTICE}\n" in screen
    record, _ = run(capsys, "plan", "--strategy", strategy, "--json")
    assert json.loads(record)["notices"] == [NOTICE]


def test_training_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    record, screen = run(capsys, "train", "--epochs", "1", "--out", "w.safetensors", "--json")
    assert f"note      {NOTICE}\n" in screen
    assert json.loads(record)["notices"] == [NOTICE]

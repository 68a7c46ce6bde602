"""The first screen of a run: how much will be done, in words that fit the numbers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from models.settings import naming_flags
from models.task_config import TaskConfig
from search.engine.prepare import prepare_run
from search.recipe import Recipe
from search.settings.config import RunConfig
from search.terminal.announce import announce_comparison, announce_search
from search.terminal.console import PlainConsole

OWN_STRATEGY = """
from search.strategies.acra import acra_uniform


def mine(problem):
    yield from acra_uniform(problem)
"""


def first_screen(folder: Path, **changes: Any) -> list[str]:
    """The lines that announce a run on a few digits, without their spaces at the ends."""
    settings = {"strategies": ("acra-uniform",), "targets": ("0.5",), "recipe": Recipe(epochs=1), **changes}
    config = RunConfig(
        task=TaskConfig(network="small", data="digits", train_images=100), name="run", results=str(folder),
        ledger=str(folder / "ledger.db"), workers=0, device="cpu", scan_levels=1, **settings,
    )  # fmt: skip
    console = PlainConsole(file=io.StringIO(), width=200)
    run = prepare_run(config)
    announce = announce_comparison if config.comparison else announce_search
    announce(run, console)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_one_of_a_thing_is_singular(tmp_path: Path) -> None:
    lines = first_screen(tmp_path, final_epochs=1, final_seeds=1)
    assert "work      1 candidate of 1 epoch, 1 finalist of 1 epoch with 1 seed each" in lines
    assert "method    l1, 5 sites; strategy acra-uniform" in lines


def test_settings_are_named_as_the_caller_knows_them(tmp_path: Path) -> None:
    untrained = ": this compresses an untrained network; `train` makes a dense baseline"
    assert f"note      no weights{untrained}" in first_screen(tmp_path)
    with naming_flags():
        assert f"note      no --weights{untrained}" in first_screen(tmp_path)


def test_several_are_plural(tmp_path: Path) -> None:
    lines = first_screen(
        tmp_path, strategies=("acra-uniform", "acra-sensitivity"), targets=("0.5", "0.3"), recipe=Recipe(epochs=0.5)
    )
    # The scan: each of five sites at one strength, and the dense network.
    work = "work      6 measurements without training, 4 candidates of 0.5 epochs, 2 finalists of 1.5 epochs"
    assert f"{work} with 3 seeds each" in lines
    assert "method    l1, 5 sites; strategies acra-uniform, acra-sensitivity" in lines


def test_without_finalists_none_are_announced(tmp_path: Path) -> None:
    assert "work      1 candidate of 1 epoch, no finalists" in first_screen(tmp_path, finalists=0)


def test_a_comparison_counts_alike(tmp_path: Path) -> None:
    lines = first_screen(tmp_path, comparison=True, final_seeds=1, warm_start=False)
    work = "work      up to 1 candidate of 1 epoch, 1 finalist of 3 epochs with 1 seed each, less what the ledger knows"
    assert work in lines


def test_a_strategy_that_says_nothing_of_itself_is_announced_without_a_scan(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN_STRATEGY)
    from search.settings.users_code import identify_names

    _, strategies, code = identify_names(["l1"], [f"{tmp_path / 'own.py'}:mine"])
    lines = first_screen(tmp_path, strategies=strategies, code=code)
    assert "work      1 candidate of 1 epoch, 1 finalist of 3 epochs with 3 seeds each" in lines

"""The first screen of a run: how much will be done, in words that fit the numbers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from models.networks.catalog import build_network
from models.settings import naming_flags
from models.task_config import TaskConfig
from search.allocation.constraints import Constraints
from search.engine.prepare import prepare_run
from search.judge.drift import SEEN
from search.recipe import Recipe
from search.settings.config import RunConfig
from search.terminal.announce import announce_run
from search.terminal.console import PlainConsole

OWN_STRATEGY = """
from search.strategies.acra import acra_uniform


def mine(problem):
    yield from acra_uniform(problem)
"""

# A product of activations is not counted; one with a bare parameter is.
OWN_NETWORK = """
import torch
from torch import nn
import torch.nn.functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 4, 3, padding=1)
        self.bare = nn.Parameter(torch.randn(10, 4, 3, 3))
        self.head = nn.Linear(10, 10)

    def forward(self, images):
        features = F.relu(self.third(F.relu(self.second(F.relu(self.first(images))))))
        features = F.conv2d(features, self.bare, padding=1).flatten(2)
        return self.head((features @ features.mT).mean(2))
"""
LEDGER = ", less what the ledger knows"


def first_screen(folder: Path, task: dict[str, str] | None = None, **changes: Any) -> list[str]:
    """The lines that announce a run on a few digits, without their spaces at the ends."""
    settings = {"strategies": ("acra-uniform",), "targets": ("0.5",), "recipe": Recipe(epochs=1), **changes}
    config = RunConfig(
        task=TaskConfig(data="digits", train_images=100, **{"network": "small", **(task or {})}),
        name="run", results=str(folder),
        ledger=str(folder / "ledger.db"), workers=0, device="cpu", scan_levels=1, **settings,
    )  # fmt: skip
    console = PlainConsole(file=io.StringIO(), width=200)
    announce_run(prepare_run(config), console)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_one_of_a_thing_is_singular(tmp_path: Path) -> None:
    lines = first_screen(tmp_path, final_epochs=1, final_seeds=1)
    assert f"work      1 candidate of 1 epoch, 1 finalist of 1 epoch with 1 seed each{LEDGER}" in lines
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
    assert f"{work} with 3 seeds each{LEDGER}" in lines
    assert "method    l1, 5 sites; strategies acra-uniform, acra-sensitivity" in lines


def test_without_finalists_none_are_announced(tmp_path: Path) -> None:
    assert f"work      1 candidate of 1 epoch, no finalists{LEDGER}" in first_screen(tmp_path, finalists=0)


def test_a_comparison_of_one_method_says_what_a_search_says(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(OWN_NETWORK)
    network = f"{tmp_path / 'net.py'}:Net"
    weights = tmp_path / "weights.pt"
    torch.save(build_network(network, classes=10, channels=1).state_dict(), weights)
    task = {"network": network, "weights": str(weights)}
    constraints = Constraints(keep_dense=("first",), round_channels=("2",))
    search = first_screen(tmp_path, task, constraints=constraints)
    assert search == first_screen(tmp_path, task, constraints=constraints, comparison=True, warm_start=False)
    # 10 x 10 products of 8 x 8 positions.
    assert "note      6.4K FLOPs lie outside layers: neither counted nor compressed" in search
    assert f"note      {SEEN}" in search
    assert "under     --keep-dense first --round-channels 2" in search


def test_an_untrained_comparison_says_so(tmp_path: Path) -> None:
    search = first_screen(tmp_path)
    assert search[-1].startswith("note      no weights: this compresses an untrained network")
    assert search == first_screen(tmp_path, comparison=True, warm_start=False)


def test_a_comparison_names_each_method_and_what_it_cannot_reach(tmp_path: Path) -> None:
    lines = first_screen(tmp_path, comparison=True, methods=("kse", "l1"), targets=("0.05", "0.5"), warm_start=False)
    assert "targets   0.05 (30.4K), 0.5 (304K)" in lines  # as they were named, though kse reaches the second alone
    methods = [line for line in lines if line.startswith("method ")]
    assert methods == ["method    kse, 6 sites; strategy acra-uniform", "method    l1, 5 sites; strategy acra-uniform"]
    assert any(line.startswith("left out  kse at 0.05: ") for line in lines)


def test_a_strategy_that_says_nothing_of_itself_is_announced_without_a_scan(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN_STRATEGY)
    from search.settings.users_code import identify_names

    _, strategies, code = identify_names(["l1"], [f"{tmp_path / 'own.py'}:mine"])
    lines = first_screen(tmp_path, strategies=strategies, code=code)
    assert f"work      1 candidate of 1 epoch, 1 finalist of 3 epochs with 3 seeds each{LEDGER}" in lines

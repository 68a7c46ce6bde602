"""A plan on the screen: every site with what is kept of it, in the words of budgets and constraints."""

from __future__ import annotations

import io

import pytest

from models.task_config import TaskConfig
from search.engine.plan import solve_plan
from search.settings.config import RunConfig
from search.terminal.console import PlainConsole
from search.terminal.show_plan import show_plan


def shown(method: str, target: str = "0.5") -> dict[str, str]:
    """Site -> its setting as the table has it."""
    config = RunConfig(
        task=TaskConfig(network="small"), methods=(method,), strategies=("acra-uniform",), targets=(target,),
        name="plan",
    )  # fmt: skip
    console = PlainConsole(file=io.StringIO(), width=120)
    show_plan(solve_plan(config).record, console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    sites = solve_plan(config).record["allocation"]
    rows = [line.split(maxsplit=1) for line in lines[1 : 1 + len(sites)]]
    return {site: setting.strip() for site, setting in rows}


def test_channels_that_are_kept_are_counted() -> None:
    """`conv1` of the network has 16 channels; its other widths follow."""
    settings = shown("l1")
    assert set(settings) == {"conv1", "layer1.conv1", "layer2.conv1", "layer2.conv2", "conv3"}
    kept, of = (int(word) for word in settings["conv1"].removesuffix(" channels").split(", ")[1].split(" of "))
    assert of == 16
    assert settings["conv1"] == f"kept {kept / of:.4g}, {kept} of 16 channels"
    assert 0 < kept < of


@pytest.mark.parametrize("method", ["l1", "kse"])
def test_dense_sites_are_called_dense(method: str) -> None:
    assert set(shown(method, "1").values()) == {"dense"}


def test_knobs_of_other_methods_are_shown_as_they_are() -> None:
    assert all(setting == "dense" or setting.startswith("G=") for setting in shown("kse").values())

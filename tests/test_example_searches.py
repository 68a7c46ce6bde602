"""Searches of the tasks in `examples/`: the target is met by torch's own count, and lower is better where it is."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import run_search
from models.task import Task
from models.tasks.build import build_task
from search import api

EXAMPLES = Path(run_search.__file__).resolve().parent / "examples"
TASKS = ["detection:build", "segmentation:build", "super_resolution:build", "two_inputs:build",
         "signals:build_waveforms", "signals:build_clips"]  # fmt: skip
COARSE = {"signals:build_clips": 0.49}  # its three layers have 12 and 24 channels

pytestmark = pytest.mark.slow


def spec_of(name: str) -> str:
    file, _, function = name.partition(":")
    return f"{EXAMPLES / file}.py:{function}"


def count_flops(network: nn.Module, task: Task) -> int:
    """Multiply-accumulates for the first of the example's inputs, as torch counts them."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        if isinstance(task.example, dict):
            network(**{name: tensor[:1] for name, tensor in task.example.items()})
        else:
            network(task.example[:1])
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", TASKS)
def test_the_target_is_met_by_torchs_own_count(name: str, tmp_path: Path) -> None:
    result = api.search(task=spec_of(name), targets=0.5, strategy="acra-uniform", epochs=0, final_epochs=0, workers=0,
                        results=tmp_path, show=False)  # fmt: skip
    task, best = build_task(spec_of(name)), result.best.loc["0.5"]
    flops, dense = (count_flops(network.eval(), task) for network in (result.network("0.5"), task.network))
    assert best["flops"] == flops
    assert COARSE.get(name, 0.495) * dense <= flops <= 0.5 * dense


@pytest.mark.parametrize(("function", "better"), [("build", max), ("build_by_error", min)])
def test_ranks_fronts_and_leaderboards_follow_the_metrics_direction(
    function: str, better: Callable, tmp_path: Path
) -> None:
    strategies = ["acra-uniform", "random"]
    result = api.compare(task=spec_of(f"super_resolution:{function}"), methods="l1", strategies=strategies, seeds=2,
                         targets=[0.5, 0.25], trials=3, epochs=0, final_epochs=0.25, workers=0, results=tmp_path,
                         show=False)  # fmt: skip
    name = result.metric.name
    front = result.pareto.sort_values("flops")[name].tolist()
    assert len(front) > 1
    assert all(better(small, large) == large != small for small, large in pairwise(front))

    # Of the candidates that a strategy drew the best one is tested.
    searched = result.table[(result.table["stage"] == "search") & (result.table["strategy"] == "random")]
    for target in ("0.5", "0.25"):
        drawn = searched[searched["target"] == target]
        (finalist,) = result.finalists.query("strategy == 'random' and target == @target")["allocation"]
        assert len(drawn) == 3
        assert drawn[name].loc[drawn["allocation"] == finalist].tolist() == [better(drawn[name])]

    for _, rows in result.leaderboard.groupby("target"):
        assert better(rows[name]) in rows.loc[rows["rank"] == 1, name].tolist()
        dense = rows[f"dense_{name}"].iloc[0]
        assert all(better(value, dense) == dense for value in rows[name])

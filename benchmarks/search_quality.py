"""Which strategy finds the better network for the same search time: every strategy, real data, the test set at the end.

    python benchmarks/search_quality.py --weights resnet20-12fca82f.th --data npz:cifar10.npz [--size gpu]

The budget is what `lagrangian` spends: its sensitivity scan and its candidates, in seconds of the workers.
Strategies that sample get as many candidates as fit into that. `acra-uniform` and `acra-sensitivity` have one answer
and leave the rest of it unused; the table says what each one spent. Each strategy's best candidate of every target by
the search split is fine-tuned and only then tested; everything, scans too, anew with every seed. The hypervolume
(optuna's) is that of (kept FLOPs, test error) over the targets, against the point (1, 1): larger is better. It can be
broken off; run again, it goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from optuna._hypervolume import compute_hypervolume
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.pictures import draw_accuracies, save_picture
from benchmarks.task_options import markdown_table, task_of, task_parser
from models.devices import pick_device
from search.engine.outcomes import MethodOutcomes
from search.engine.prepare import prepare_run
from search.engine.running import run_prepared
from search.machine.host import host_facts
from search.recipe import Recipe
from search.settings.commands import COMPARE, COMPARE_FIXED
from search.settings.new_config import new_run_config
from search.settings.setting import read_settings
from search.terminal.observer import ConsoleObserver

SCANNING = ("acra-uniform", "acra-sensitivity", "lagrangian")
SAMPLING = ("random", "tpe", "nsga2")
SIZES: dict[str, dict[str, Any]] = {
    "cpu": {
        "train_images": None,
        "recipe": Recipe(epochs=0.05, recalibration_images=1024),
        "final_epochs": 0.25,
        "scan_levels": 5,
        "scan_images": 500,
        "seeds": 2,
    },
    "gpu": {
        "train_images": None,
        "recipe": Recipe(epochs=1.0),
        "final_epochs": 10.0,
        "scan_levels": 7,
        "scan_images": 10**9,
        "seeds": 3,
    },
}


@dataclass(frozen=True)
class Row:
    """One strategy's best network for one target and one seed."""

    method: str
    strategy: str
    target: str
    seed: int
    kept: float
    accuracy: float
    seconds: float
    """Worker seconds of the search for all targets."""
    candidates: int


def main() -> None:
    arguments, observer = _parsed(), ConsoleObserver(Console(stderr=True))
    size = {**SIZES[arguments.size], "targets": arguments.targets}
    rows: list[Row] = []
    for method in arguments.methods.split(","):
        found = [row for seed in range(size["seeds"])
                 for row in _searched(arguments, size, method, SCANNING, observer, seed=seed)]  # fmt: skip
        rows += found
        budget = next(row.seconds for row in found if row.strategy == "lagrangian")
        uniform = next(row for row in found if row.strategy == "acra-uniform")
        trials = max(round(budget / uniform.seconds), 1)  # uniform tries one candidate per target, as `trials` counts
        for seed in range(size["seeds"]):
            rows += _searched(arguments, size, method, SAMPLING, observer, seed=seed, trials=trials)
    print("; ".join(f"{key} {value}" for key, value in host_facts(pick_device(None)).items()))
    print(markdown_table(table(rows)))
    picture(rows, Path(arguments.picture))


def _searched(
    arguments: argparse.Namespace,
    size: dict[str, Any],
    method: str,
    strategies: Sequence[str],
    observer: ConsoleObserver,
    *,
    seed: int,
    trials: int = 8,
) -> list[Row]:
    """One comparison: what is known already comes from the ledger."""
    given = {
        "methods": method,
        "strategies": strategies,
        "seeds": 1,
        "name": f"{arguments.size}-{method}-{strategies[0]}-{seed}",
        **{name: size[name] for name in ("targets", "final_epochs", "scan_levels", "scan_images")},
        **size["recipe"].model_dump(),
        "trials": trials,
        "seed": seed,
        "workers": arguments.workers,
        "results": arguments.results,
    }
    task = task_of(arguments, train_images=size["train_images"])
    config = new_run_config(COMPARE, read_settings(COMPARE, given), task, **COMPARE_FIXED)
    compared = run_prepared(prepare_run(config, observer.say), observer)
    assert compared.complete, "broken off; the same command goes on"
    return [row for result in compared.methods for row in _rows(result, seed)]


def _rows(result: MethodOutcomes, seed: int) -> list[Row]:
    """The finalists of one method."""
    rows = []
    for proposal, outcome in result.seen:
        if proposal.stage != "final" or outcome.score is None or outcome.flops is None:
            continue
        spent = [pair for pair in result.seen if pair[0].strategy == proposal.strategy and pair[0].stage != "final"]
        rows.append(
            Row(
                method=proposal.candidate.method,
                strategy=proposal.strategy,
                target=str(proposal.target),
                seed=seed,
                kept=outcome.flops / result.prepared.compressor.cost.dense.flops,
                accuracy=outcome.score,
                seconds=sum(other.seconds for _, other in spent),
                candidates=len(spent),
            )
        )
    return rows


def table(rows: Sequence[Row]) -> pd.DataFrame:
    """A line per method and strategy: test accuracy at each target, hypervolume, cost; mean ± std over seeds."""
    lines = []
    for (method, strategy), group in pd.DataFrame(map(vars, rows)).groupby(["method", "strategy"], sort=False):
        line = {"method": method, "strategy": strategy}
        for target, cell in group.groupby("target"):
            line[f"test accuracy at {target}, %"] = _spread(100 * cell["accuracy"])
            line[f"kept at {target}"] = f"{cell['kept'].mean():.4f}"
        volumes = pd.Series([hypervolume(one) for _, one in group.groupby("seed")])
        line["hypervolume"] = _spread(volumes, 4)
        line["measurements and candidates"] = f"{group['candidates'].mean():.0f}"
        line["search, worker seconds"] = f"{group['seconds'].mean():.0f}"
        lines.append(line)
    return pd.DataFrame(lines)


def hypervolume(front: pd.DataFrame) -> float:
    """Of one seed's finalists, kept FLOPs against test error, up to (1, 1)."""
    points = np.stack([front["kept"], 1 - front["accuracy"]], axis=1)
    return float(compute_hypervolume(points, np.ones(2)))


def _spread(values: pd.Series, digits: int = 2) -> str:
    shown = f"{values.mean():.{digits}f}"
    return shown if len(values) < 2 else f"{shown} ± {values.std():.{digits}f}"


def picture(rows: Sequence[Row], path: Path) -> None:
    """Test accuracy against kept FLOPs, a panel for each method, a line for each strategy with its spread."""
    frame = pd.DataFrame(map(vars, rows))
    methods = list(frame["method"].unique())
    figure, panels = plt.subplots(1, len(methods), figsize=(5 * len(methods), 4), squeeze=False, layout="constrained")
    for panel, method in zip(panels[0], methods, strict=True):
        for strategy, group in frame[frame["method"] == method].groupby("strategy", sort=False):
            cells = (
                group.groupby("target").agg({"kept": "mean", "accuracy": ["mean", "std"]}).sort_values(("kept", "mean"))
            )
            draw_accuracies(
                panel, str(strategy), cells["kept", "mean"], cells["accuracy", "mean"], cells["accuracy", "std"]
            )
        panel.set(title=method)
    save_picture(figure, path)


def _parsed() -> argparse.Namespace:
    parser = task_parser(__doc__)
    parser.add_argument("--size", choices=SIZES, default="cpu", help="gpu: longer fine-tunes, finer scans, three seeds")
    parser.add_argument("--methods", default="l1,kse")
    parser.add_argument("--targets", default="0.5,0.3")
    parser.add_argument("--workers", type=int, help="default: as run_search.py")
    parser.add_argument("--results", default="results/search-quality", help="runs and their ledger")
    parser.add_argument("--picture", default="results/reference/search-quality.png")
    return parser.parse_args()


if __name__ == "__main__":
    main()

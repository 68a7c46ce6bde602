"""Which method keeps most of the score at the same real FLOPs: accuracy, size and measured speed, method by method.

    python benchmarks/method_quality.py --weights resnet20-12fca82f.th --data npz:cifar10.npz

Every method with one level for all sites (`acra-uniform`) and with `lagrangian`; the best candidate of each target is
fine-tuned with several seeds and then tested. FLOPs are those that torch's counter finds on the exported network:
shared kernels count as dense ones. The answer of each is exported, and timed beside the dense network in turns, one
thread, in ONNX Runtime and as torch's program. It can be broken off; run again, it goes on from the ledger.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.pictures import draw_accuracies, save_picture
from benchmarks.task_options import markdown_table, task_parser
from models.devices import pick_device
from search import api
from search.machine.host import host_facts

COLUMNS = ("strategy", "target", "seeds", "test_accuracy", "test_std", "kept_flops", "params", "bytes",
           "search_seconds", "seconds")  # fmt: skip
TIMED = "gain, onnxruntime, batch 64"  # dense time over compressed time


def main() -> None:
    """Search, export and print the table in Markdown; it is kept as CSV beside the runs."""
    arguments = _parsed()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for method in arguments.methods.split(","):
        for strategy in arguments.strategies.split(","):
            rows += method_rows(arguments, method, strategy)
            pd.DataFrame(rows).to_csv(Path(arguments.results) / "method-quality.csv", index=False)
    print("; ".join(f"{key} {value}" for key, value in host_facts(pick_device(None)).items()))
    print(markdown_table(pd.DataFrame(rows).round(4)))
    picture(pd.DataFrame(rows), Path(arguments.picture))


def picture(rows: pd.DataFrame, path: Path) -> None:
    """Test accuracy against kept FLOPs and against kept time, a line for each method, dashed for equal levels."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    colours = {method: f"C{number}" for number, method in enumerate(rows["method"].unique())}
    for (method, strategy), line in rows.sort_values("kept_flops").groupby(["method", "strategy"], sort=False):
        look = {"color": colours[method], "linestyle": "--" if strategy == "acra-uniform" else "-"}
        accuracy = line["test_accuracy"], line["test_std"]
        draw_accuracies(panels[0], f"{method}, {strategy}", line["kept_flops"], *accuracy, **look)
        draw_accuracies(panels[1], f"{method}, {strategy}", 1 / line[TIMED], *accuracy, **look)
    panels[0].set(xlabel="kept FLOPs (of ordinary convolutions)")
    panels[1].set(xlabel="kept time in ONNX Runtime, batch 64, one thread", ylabel="")
    save_picture(figure, path)


def method_rows(arguments: argparse.Namespace, method: str, strategy: str) -> list[dict[str, Any]]:
    """A row for each target."""
    name, _, option = method.partition(":")  # tucker:multiple=1
    key, _, value = option.partition("=")
    run = api.compare(
        arguments.network, arguments.data, weights=arguments.weights, mean=arguments.mean, std=arguments.std,
        targets=arguments.targets, methods=name, strategies=strategy,
        options={f"{name}.{key}": int(value)} if option else {},
        epochs=arguments.epochs, final_epochs=arguments.final_epochs, seeds=arguments.seeds,
        workers=arguments.workers, results=arguments.results,
    )  # fmt: skip
    rows = []
    for finalist in run.finalists.to_dict("records"):
        with tempfile.TemporaryDirectory() as folder:
            exported = run.export(str(finalist["target"]), to=Path(folder) / "export", formats="pt2,onnx,config")
            config = exported.config
        gains = {f"gain, {timed.engine}, batch {timed.batch}": timed.speed_up for timed in config.metrics.latency}
        cells = {column: finalist[column] for column in COLUMNS}
        rows.append({"method": method, **cells, "exported_flops": config.metrics.executed_flops, **gains})
    return rows


def _parsed() -> argparse.Namespace:
    parser = task_parser(__doc__)
    parser.add_argument("--methods", default="l1,obs,svd,tucker,tucker:multiple=1,obs+tucker")
    parser.add_argument("--strategies", default="acra-uniform,lagrangian")
    parser.add_argument("--targets", default="0.5,0.3")
    parser.add_argument("--epochs", type=float, default=0.05, help="of candidates")
    parser.add_argument("--final-epochs", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, help="default: as run_search.py")
    parser.add_argument("--results", default="results/method-quality", help="runs and their ledger")
    parser.add_argument("--picture", default="results/reference/method-quality.png")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""What half of the FLOPs gains in ONNX Runtime on one thread of a CPU, with predicted allocations and nothing trained.

    python benchmarks/onnx_speed.py --weights resnet20-unseen.safetensors --data npz:cifar10.npz

All networks are written as `export` writes them and timed in turns, by the processor time of the thread, so that other
work on the machine disturbs little. The gain is the quotient of the medians, with the quartiles of the rounds' own.
The accuracy is that on the search split, after batch norm is measured anew; no test image is looked at.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import torch
from torch import nn

from benchmarks.task_options import markdown_table, task_of, task_parser
from methods.base import Compressor
from models.execution.inputs import Inputs
from models.tasks.load import load_task
from models.tasks.pictures import PictureTask, measure_accuracy
from search.allocation.allocate import project_shape, uniform_shape
from search.allocation.budget import Budget
from search.allocation.minimise import minimise_damage
from search.export.formats import capture_program, convolve_shortcuts, open_onnx, plain_network, write_onnx
from search.export.signature import IMAGES, LOGITS, describe_signature
from search.judge.bind import bind_method
from search.judge.finetune import recalibrate
from search.latency.timing import BLOCK, Forward, time_in_turns
from search.machine.host import host_facts

IMAGES_FOR_NORMS = 2048


def main() -> None:
    """Print a row for each method and option."""
    arguments = _parsed()
    torch.set_num_threads(1)
    task = load_task(task_of(arguments), torch.device("cpu"))
    assert isinstance(task, PictureTask)
    rows = [{"method": "dense", "accuracy, %": f"{100 * measure_accuracy(task.network, task.search)[0]:.2f}",
             "gain by FLOPs": "1.00"}]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        forms = [open_form(task.network, task.example, Path(folder) / "0.onnx")]
        for method in arguments.methods.split(","):
            name, _, option = method.partition(":")  # tucker:multiple=8
            key, _, value = option.partition("=")
            compressor = bind_method(task, name, {key: int(value)} if option else {})
            network, kept = compress(compressor, arguments.kept)
            recalibrate(network, task.objective, task.tune, IMAGES_FOR_NORMS, seed=0)
            accuracy = f"{100 * measure_accuracy(network, task.search)[0]:.2f}"
            rows.append({"method": method, "accuracy, %": accuracy, "gain by FLOPs": f"{1 / kept:.2f}"})
            forms.append(open_form(network, task.example, Path(folder) / f"{len(forms)}.onnx"))
    for batch in (1, 64):
        images = torch.randn(batch, *task.example.shape[1:])
        runs = [partial(form, Inputs.of(images)) for form in forms]
        seconds = time_in_turns(
            runs, clock=time.thread_time, rounds=arguments.rounds, least=arguments.rounds, budget=0, block=BLOCK
        )
        for row, times in zip(rows, seconds, strict=True):
            gains = np.quantile(np.divide(seconds[0], times), (0.25, 0.75))
            gain = statistics.median(seconds[0]) / statistics.median(times)
            row[f"batch {batch}, ms"] = f"{1e3 * statistics.median(times):.2f}"
            row[f"batch {batch}, gain"] = f"{gain:.2f} ({gains[0]:.2f} to {gains[1]:.2f})"
    print("; ".join(f"{key} {value}" for key, value in host_facts(task.device).items()))
    print(markdown_table(pd.DataFrame(rows)))


def compress(compressor: Compressor, kept: float) -> tuple[nn.Module, float]:
    """The network of least predicted damage, or of equal shares without predictions; its share of the FLOPs."""
    sites, cost = compressor.sites, compressor.cost
    budget = Budget({"flops": int(kept * cost.dense.flops)}, cost)
    levels = project_shape(uniform_shape(len(sites)), sites, budget).levels
    if all(site.damages for site in sites):
        levels = minimise_damage([np.array(site.damages) for site in sites], budget, starts=[levels])
    allocation = compressor.allocation(levels)
    return compressor.compress(allocation).eval(), compressor.cost_of(allocation).flops / cost.dense.flops


def open_form(network: nn.Module, example: torch.Tensor, path: Path) -> Forward:
    """The network in ONNX Runtime, one thread."""
    plain, inputs = convolve_shortcuts(plain_network(network)), Inputs.of(example)
    signature = describe_signature(plain, inputs, names=(IMAGES, LOGITS))
    write_onnx(capture_program(plain, inputs), path, signature)
    return open_onnx(path, signature, threads=1)


def _parsed() -> argparse.Namespace:
    parser = task_parser(__doc__, "of a network that has not seen the search split")
    parser.add_argument("--methods", default="tucker,tucker:multiple=8,tucker:multiple=1,svd,svd:multiple=1,l1")
    parser.add_argument("--kept", type=float, default=0.5, help="FLOPs kept")
    parser.add_argument("--rounds", type=int, default=20)
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Predictions from a kit's table against whole compressed networks in ONNX Runtime, for allocations it never saw.

    python benchmarks/device_latency.py --network resnet20 --size 32 [--threads 1,2] [--kit FOLDER]

A kit is written and measured on this machine, as `latency measure --run` does. Then networks of random allocations are
timed by the kit's own script: on the steps that the table shows, as a search under it would have them, and off them. An
allocation draws a scale, for every site a strength up to it, and takes the setting nearest to that. Weights are random:
times do not depend on them.

Aims, at one thread and on the steps: every prediction within 10 % of the measurement, and Kendall's τ at least 0.9.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import torch
from scipy.stats import kendalltau

from benchmarks.task_options import markdown_table
from methods.base import Compressor, Levels, example_input
from methods.registry import create
from models.networks.catalog import build_network
from search.allocation.choice import constrain_choice
from search.allocation.constraints import Constraints, step_rule
from search.kit import measure
from search.kit.anchors import write_network
from search.kit.write_kit import write_kit
from search.latency.device_file import read_device_file
from search.latency.device_table import DeviceTable
from search.latency.progress import tell_user
from search.machine.host import host_facts

HARDEST = 0.9  # the largest scale
SEED = 1  # not that of the kit's own random networks


def main() -> None:
    """Print a line for every network, and a row for every number of threads."""
    arguments = _parsed()
    torch.set_num_threads(1)
    network = build_network(arguments.network, classes=10 if arguments.size < 64 else 1000, channels=3)
    compressor = create(arguments.method, network, example_input((3, arguments.size, arguments.size)))
    print("; ".join(f"{key} {value}" for key, value in host_facts(torch.device("cpu")).items()))
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        kit = Path(arguments.kit or scratch) / "kit"
        if not (kit / measure.KIT).exists():
            kit.mkdir(parents=True)
            write_kit([compressor], kit, name="here", network=arguments.network, say=tell_user)
        size = sum(path.stat().st_size for path in kit.rglob("*.onnx"))
        print(f"kit: {len([*kit.rglob('*.onnx')])} files, {size / 1e6:.1f} MB")
        networks: dict[str, list[tuple[Levels, Path]]] = {}
        for threads in map(int, arguments.threads.split(",")):
            table_path = kit / f"table-{threads}.json"
            measure.measure_kit(kit, table_path, provider=arguments.provider, threads=threads, batch=arguments.batch)
            file = read_device_file(table_path)
            networks = networks or write_networks(compressor, file.steps.channels, arguments, Path(scratch))
            print(f"{file.where_text}; steps {file.steps}")
            table = DeviceTable(file, compressor)
            for label, entries in networks.items():
                rows.append({"threads": threads, "widths": label, **compare(table, label, entries, arguments, threads)})
    print(markdown_table(pd.DataFrame(rows)))


def write_networks(
    compressor: Compressor, step: int, arguments: argparse.Namespace, folder: Path
) -> dict[str, list[tuple[Levels, Path]]]:
    """Networks of random allocations on the steps and off them: levels and files."""
    rng = np.random.default_rng(SEED)
    rules = {"on the steps": [step_rule(step, ["here"])], "any": []}
    counts = {"on the steps": arguments.networks, "any": arguments.off}
    networks: dict[str, list[tuple[Levels, Path]]] = {}
    for label, count in counts.items():
        choice = constrain_choice(compressor, Constraints(), rules[label])
        for number in range(count):
            scale = rng.uniform(0, HARDEST)
            wanted = rng.uniform(0, scale, size=len(choice.sites))
            # The nearest and not the gentler setting: ladders on steps are short, and most sites would stay dense.
            nearest = [np.abs(np.array(site.strengths) - strength).argmin()
                       for site, strength in zip(choice.sites, wanted, strict=True)]  # fmt: skip
            levels = choice.full_levels(np.array([nearest]))[0]
            path = folder / f"{label.replace(' ', '-')}-{number}.onnx"
            write_network(compressor, levels, path)
            networks.setdefault(label, []).append((levels, path))
    return networks


def compare(
    table: DeviceTable, label: str, entries: list[tuple[Levels, Path]], arguments: argparse.Namespace, threads: int
) -> dict[str, Any]:
    """How far predictions of these networks lie from measurements, in turns with the least of several passes."""
    runs = [measure.open_file(path, {}, arguments.provider, threads, arguments.batch) for _, path in entries]
    clock = measure.clock_of(arguments.provider, threads)
    passes = [measure.time_in_turns(runs, clock)[1] for _ in range(measure.PASSES)]
    measured = 1e9 * np.min([[min(rounds) for rounds in seconds] for seconds in passes], axis=0)
    predicted = table(np.stack([levels for levels, _ in entries]))
    errors = predicted / measured - 1
    for time, error in zip(measured, errors, strict=True):
        print(f"{label}, {threads} threads: measured {time / 1e6:.4g} ms, predicted {error:+.1%}")
    return {
        "n": len(entries),
        "measured, ms": f"{measured.min() / 1e6:.3g} to {measured.max() / 1e6:.3g}",
        "mean error, %": f"{100 * np.abs(errors).mean():.1f}",
        "largest error, %": f"{100 * errors[np.abs(errors).argmax()]:+.1f}",
        "Kendall's τ": f"{kendalltau(predicted, measured).statistic:.2f}",
    }


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--size", type=int, default=32, help="of square images")
    parser.add_argument("--method", default="l1")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--provider", default="CPUExecutionProvider")
    parser.add_argument("--networks", type=int, default=10, help="random allocations on the steps")
    parser.add_argument("--off", type=int, default=5, help="random allocations of any widths")
    parser.add_argument("--kit", default=None, help="folder that keeps the kit, or has it already")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""What an allocation costs whose damages are predicted in closed form: seconds of every step, and memory.

    python benchmarks/predict.py [method] [network] [size] [images]

Random weights and images: nothing that takes time depends on them.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from methods.base import example_input
from methods.registry import create
from models.devices import pick_device
from models.networks.catalog import build_network
from models.tasks.pictures import calibration_batch
from search.allocation.budget import Budget
from search.allocation.minimise import minimise_damage
from search.machine.host import host_facts

KEPT = 0.5


@contextmanager
def timed(what: str) -> Iterator[None]:
    wall, processor = time.perf_counter(), time.process_time()
    yield
    clock, processors = time.perf_counter() - wall, time.process_time() - processor
    print(f"{what}: {clock:.1f} s on the clock, {processors:.1f} s of processors")


def main() -> None:
    """Bind the method, calibrate it, solve for half of the FLOPs, compress."""
    given = sys.argv[1:]
    method, name, size, images = (*given, *("tucker", "resnet50", "224", "256")[len(given) :])
    shape, classes = (3, int(size), int(size)), 10 if int(size) < 64 else 1000
    torch.manual_seed(0)
    network = build_network(name, classes=classes, channels=3).eval()
    batch = calibration_batch(shape)
    batches = [(torch.randn(batch, *shape), torch.randint(classes, (batch,))) for _ in range(-(-int(images) // batch))]
    print("; ".join(f"{key} {value}" for key, value in host_facts(pick_device(None)).items()))
    with timed("all"):
        with timed("bind"):
            compressor = create(method, network, example_input(shape))
        with timed(f"calibrate on {batch * len(batches)} images"):
            compressor.calibrate(batches)
        with timed("ladders and damages"):
            damages = [np.array(site.damages) for site in compressor.sites]
        with timed("solve"):
            limit = int(KEPT * compressor.cost.dense.flops)
            levels = minimise_damage(damages, Budget({"flops": limit}, compressor.cost))
        with timed("compress"):
            compressor.compress(compressor.allocation(levels))
    print(f"memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB at most")


if __name__ == "__main__":
    main()

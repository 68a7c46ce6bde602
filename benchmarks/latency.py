"""Predicted latency against the whole compressed network, measured in turns with the dense one.

    python benchmarks/latency.py [network] [size] [batch] [threads]

The dense network, the three uniform strengths that the table was fitted to, and random allocations that it never saw.
A prediction is to lie within a third of the measurement on the busiest machine, within a few percent on an idle one.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from methods.base import Levels, example_input
from methods.registry import create
from models.networks.catalog import build_network
from search.allocation.allocate import Ladders
from search.latency.check import check_prediction
from search.latency.table import latency_table

KEPT = (1.0, 0.75, 0.5, 0.25)  # of every site's channels
RANDOM = 8
LIMIT = 1 / 3  # how far off a prediction may be, as a share of the measurement


def main() -> None:
    """Print what both say of every allocation, and how far apart they are."""
    name = sys.argv[1] if len(sys.argv) > 1 else "resnet20"
    size, batch, threads = (
        int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((2, 32), (3, 1), (4, 1))
    )
    torch.set_num_threads(threads)
    network = build_network(name, classes=10 if size < 64 else 1000, channels=3)
    compressor = create("l1", network, example_input((3, size, size)))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        table = latency_table(compressor, batch=batch, results=Path(folder), say=print)
    print(f"table in {time.perf_counter() - start:.0f} s on the clock")

    def off(label: str, levels: Levels) -> float:
        checked = check_prediction(compressor, levels, table)
        print(f"{label}: {checked.figures_text()}")
        return abs(checked.relative_error)

    wanted = np.repeat(1 - np.array(KEPT)[:, None], len(compressor.sites), axis=1)
    fitted = [
        off(f"kept {kept:g} of the channels", levels)
        for kept, levels in zip(KEPT, Ladders(compressor.sites).levels_at(wanted), strict=True)
    ]
    rng = np.random.default_rng(0)
    unseen = [np.array([rng.integers(len(site.settings)) for site in compressor.sites]) for _ in range(RANDOM)]
    errors = [off("random", levels) for levels in unseen]
    print(f"random allocations, n = {RANDOM}: off by {np.mean(errors):.1%} on average, {max(errors):.1%} at most")
    print(f"over {LIMIT:.0%}: {sum(error > LIMIT for error in [*fitted, *errors])} of {len(fitted) + RANDOM}")


if __name__ == "__main__":
    main()

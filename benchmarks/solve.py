"""How long an allocation takes once a network is traced, against pruning and recounting at every step of a bisection.

    python benchmarks/solve.py [network] [size]

The second way is what a user without a cost model does: eight bisection steps, each narrowing a copy and counting it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from methods.base import Compressor, Levels
from methods.registry import create
from models.networks.catalog import build_network
from search.allocation.allocate import Ladders, project_shape, uniform_shape
from search.allocation.budget import Budget

TARGETS = (0.7, 0.5, 0.3)
REPEATS = 20
STEPS = 8


def count(compressor: Compressor, levels: Levels, image: torch.Tensor) -> int:
    small = compressor.compress(compressor.allocation(levels))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        small(image[:1])
    return counter.get_total_flops() // 2


def by_recounting(compressor: Compressor, limit: int, image: torch.Tensor) -> int:
    """FLOPs that a bisection on the uniform strength ends with, every step on a really pruned copy."""
    ladders, low, high, best = Ladders(compressor.sites), 0.0, 1.0, 0
    for _ in range(STEPS):
        middle = (low + high) / 2
        found = count(compressor, ladders.levels_at(np.full((1, len(compressor.sites)), middle))[0], image)
        low, high, best = (low, middle, found) if found <= limit else (middle, high, best)
    return best


def main() -> None:
    """Print milliseconds per target, how near each lands, and the ratio of the two ways."""
    name = sys.argv[1] if len(sys.argv) > 1 else "resnet50"
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 224
    image = torch.randn(2, 3, size, size)
    network = build_network(name, classes=1000).eval()
    start = time.perf_counter()
    compressor = create("l1", network, image)
    dense, sites = compressor.cost.dense.flops, compressor.sites
    print(f"{name} at {size}: {dense / 1e9:.3f} G, {len(sites)} sites, traced in {time.perf_counter() - start:.1f} s")
    for kept in TARGETS:
        limit, times = int(kept * dense), []
        for _ in range(REPEATS):
            start = time.perf_counter()
            solution = project_shape(uniform_shape(len(sites)), sites, Budget({"flops": limit}, compressor.cost))
            times.append(time.perf_counter() - start)
        start = time.perf_counter()
        recounted = by_recounting(compressor, limit, image)
        slow, fast = time.perf_counter() - start, float(np.median(times))
        print(
            f"kept {kept}: {1e3 * fast:.1f} ms (worst {1e3 * max(times):.1f}), lands at "
            f"{solution.cost.flops / dense:.5f}; "
            f"recounting {slow:.1f} s, {recounted / dense:.5f}; {slow / fast:.0f} times faster"
        )


if __name__ == "__main__":
    main()

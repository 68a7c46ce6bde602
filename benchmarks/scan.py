"""What a sensitivity scan costs with and without reuse of what its networks have in common, in one process.

    python benchmarks/scan.py --weights resnet20-12fca82f.th --data npz:cifar10.npz [--methods l1,kse] [--images 500]

Every measurement is made both ways, one after the other, and must come out the same to the bit. Seconds are those of
the processor on a CPU, of the clock on a GPU.
"""

from __future__ import annotations

import argparse
import time

import torch

from methods.base import Compressor
from models.devices import pick_device
from models.task_config import TaskConfig
from search.candidate import Candidate, Outcome
from search.judge.evaluate import Evaluator
from search.machine.host import host_facts
from search.recipe import ZERO_SHOT
from search.strategies.sensitivity import scan_points


class Plain(Evaluator):
    """Computes every network from its first layer on."""

    def _judge(self, candidate: Candidate, *_: object) -> Outcome:
        return self._measured(candidate, None, None)


def scanned(compressor: Compressor, levels: int) -> list[list[int]]:
    """The dense network, then each site alone, as levels of all sites."""
    sites = compressor.sites
    alone = [[point.level if i == point.site else 0 for i in range(len(sites))]
             for point in scan_points(sites, levels)]  # fmt: skip
    return [[0] * len(sites), *alone]


def clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights")
    parser.add_argument("--data", required=True, help="as for run_search.py")
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--mean", default="0.485,0.456,0.406")
    parser.add_argument("--std", default="0.229,0.224,0.225")
    parser.add_argument("--methods", default="l1,kse")
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--images", type=int, default=500, help="to judge on, and to measure batch norm with")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    task = TaskConfig(network=arguments.network, weights=arguments.weights, data=arguments.data,
                      mean=tuple(map(float, arguments.mean.split(","))),
                      std=tuple(map(float, arguments.std.split(","))))  # fmt: skip
    recipe = ZERO_SHOT.model_copy(update={"recalibration_images": arguments.images})
    print("; ".join(f"{key} {value}" for key, value in host_facts(pick_device(None)).items()))
    for method in arguments.methods.split(","):
        judges = Plain(task), Evaluator(task)
        compressor = judges[0].compressor(Candidate(method=method, allocation={}))
        rows, spent = scanned(compressor, arguments.levels), [0.0, 0.0]
        for row in rows:
            allocation = compressor.allocation(row)
            candidate = Candidate(method=method, allocation=allocation, recipe=recipe, images=arguments.images)
            found = []
            for way, judge in enumerate(judges):
                start = clock()
                outcome = judge(candidate)
                spent[way] += clock() - start
                found.append((outcome.score, outcome.loss, outcome.drift))
            assert found[0] == found[1], candidate
        plain, shared = spent
        print(f"{method:5} n = {len(rows):3}: {plain:.1f} s without, {shared:.1f} s with reuse, "
              f"{plain / shared:.2f} times as fast")  # fmt: skip


if __name__ == "__main__":
    main()

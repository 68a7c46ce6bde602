"""A fine-tuning step of a compressed network against the dense one's: every method, one process, steps in turns.

    python benchmarks/step.py                                   ResNet-20 on 32 × 32 images, batch 128, kept 0.5
    python benchmarks/step.py --network resnet56 --batch 64 --methods kse,resrep

A step is what fine-tuning does: augmented images are there already; forward, loss, backward, the method's hook, and
SGD. Distillation, which costs the dense network's forward pass for every method alike, is left out. Dense and
compressed steps take turns, so that other work on the machine slows both; medians, and the ratio of the two.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from methods.base import Compressor, Tuning, copy_network, example_input
from methods.registry import create, methods
from models.execution.gradients import run_backward
from models.networks.catalog import build_network
from search.allocation.allocate import project_shape, uniform_shape
from search.allocation.budget import Budget
from search.judge.training_step import mixed_precision

LIMIT = 1.5  # times the dense step, at most
LR = 0.02


def stepper(network: nn.Module, tuning: Tuning, inputs: Tensor, labels: Tensor) -> Callable[[int], float]:
    """A function that does step number i and returns its seconds."""
    optimizer = torch.optim.SGD(tuning.parameter_groups(network), LR, momentum=0.9, weight_decay=5e-4, nesterov=True)
    network.train()

    def step(number: int) -> float:
        start = time.perf_counter()
        with mixed_precision(inputs.device):
            outputs = network(inputs).float()
        loss = functional.cross_entropy(outputs, labels)
        optimizer.zero_grad(set_to_none=True)
        run_backward(loss)
        tuning.after_backward(network, number)
        optimizer.step()
        if inputs.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return step


def compressed(compressor: Compressor, kept: float, steps: int) -> tuple[nn.Module, Tuning, float]:
    """A network under uniform widths, what its method adds to fine-tuning, and the FLOPs kept."""
    limit = int(kept * compressor.cost.dense.flops)
    solution = project_shape(
        uniform_shape(len(compressor.sites)), compressor.sites, Budget({"flops": limit}, compressor.cost)
    )
    allocation = compressor.allocation(solution.levels)
    small = compressor.compress(allocation)
    tuning = compressor.tuning(allocation, small, steps=steps, lr=LR)
    return small, tuning, solution.cost.flops / compressor.cost.dense.flops


def medians(dense: Callable[[int], float], small: Callable[[int], float], steps: int) -> tuple[float, float, float]:
    """Median seconds of a dense and of a compressed step, and of the pairs' ratio; the first tenth is left out."""
    pairs = []
    for number in range(steps):
        first, second = (dense, small) if number % 2 else (small, dense)
        times = (first(number), second(number))
        pairs.append(times if number % 2 else times[::-1])
    pairs = pairs[steps // 10 :]
    ratio = statistics.median(small / dense for dense, small in pairs)
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs), ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--methods", default=",".join(methods()), help="comma-separated; all by default")
    parser.add_argument("--kept", type=float, default=0.5, help="FLOPs kept")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=32, help="height and width of the images")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    shape = (3, arguments.size, arguments.size)
    inputs = torch.randn(arguments.batch, *shape).to(arguments.device, memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (arguments.batch,)).to(arguments.device)
    network = build_network(arguments.network, classes=10, channels=3).to(arguments.device)
    network = network.eval().to(memory_format=torch.channels_last)
    cuda = torch.device(arguments.device).type == "cuda"
    device = torch.cuda.get_device_name() if cuda else f"CPU, {arguments.threads} threads"
    print(f"{arguments.network}, batch {arguments.batch}, {arguments.steps} steps; {device}; torch {torch.__version__}")
    slow = []
    for name in arguments.methods.split(","):
        compressor = create(name, network, example_input(shape, arguments.device))
        compressor.calibrate([(inputs[:16], labels[:16])])
        small, tuning, kept = compressed(compressor, arguments.kept, arguments.steps)
        twin = copy_network(network)
        dense, own, ratio = medians(
            stepper(twin, Tuning(), inputs, labels), stepper(small, tuning, inputs, labels), arguments.steps
        )
        slow += [name] if ratio > LIMIT else []
        print(
            f"{name:18} kept {kept:.4f}: dense {1e3 * dense:8.1f} ms, own {1e3 * own:8.1f} ms, {ratio:.2f}×", flush=True
        )
    print(f"over {LIMIT}×: {', '.join(slow) or 'none'}")


if __name__ == "__main__":
    main()

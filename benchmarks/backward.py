"""What right gradients cost: a training step with `run_backward` against one with torch's own backward, in turns.

    python benchmarks/backward.py [--threads 2] [--steps 200]

ResNet-20 has no convolution that oneDNN computes wrongly (see `models/execution/gradients.py`). torchvision's ResNet-18
with a
stem of 5 channels has one, and `small` with a tenth of its FLOPs. There torch's own backward can corrupt the process it
runs in, so that it gets copies in which those layers, 1×1 with a stride, are given contiguous images.

Seconds are of the processor, all threads together: on a machine that does other work besides, the clock says little.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.step import compressed
from methods.base import example_input
from methods.registry import create
from models.execution.gradients import run_backward
from models.networks.catalog import build_network


class ContiguousInput(nn.Module):
    """A convolution that is given contiguous images, as one would write by hand around the fault."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x.contiguous()).contiguous(memory_format=torch.channels_last)


def by_hand(network: nn.Module) -> nn.Module:
    """A copy whose strided 1×1 convolutions of fewer than 16 channels have contiguous inputs."""
    twin = copy.deepcopy(network)
    for name, module in list(twin.named_modules()):
        if (
            isinstance(module, nn.Conv2d)
            and module.kernel_size == (1, 1)
            and max(module.stride) > 1
            and module.in_channels < 16
        ):
            twin.set_submodule(name, ContiguousInput(module))
    return twin


def narrow_resnet18() -> nn.Module:
    """ResNet-18 whose first 5 channels alone reach its layers."""
    from torchvision.models import ResNet
    from torchvision.models.resnet import BasicBlock

    network = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=10)
    network.conv1 = nn.Conv2d(3, 5, 3, padding=1, bias=False)
    network.bn1, network.maxpool, network.inplanes = nn.BatchNorm2d(5), nn.Identity(), 5
    network.layer1 = network._make_layer(BasicBlock, 5, 2)
    network.layer2 = network._make_layer(BasicBlock, 128, 2, stride=2)
    return network


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Name -> network and the shape of a batch."""
    dense = build_network("small", classes=10, channels=1).eval()
    small, _, _ = compressed(create("l1", dense, example_input((1, 8, 8))), 0.1, 1)
    return {
        "small on digits, kept 0.1": (small, (64, 1, 8, 8)),
        "ResNet-18, 5 channels": (narrow_resnet18(), (32, 3, 32, 32)),
        "ResNet-20": (build_network("resnet20", classes=10, channels=3), (32, 3, 32, 32)),
    }


def stepper(network: nn.Module, shape: tuple[int, ...], backward: Callable[[Tensor], None]) -> Callable[[], float]:
    """A function that trains for one step and returns its seconds."""
    network = copy.deepcopy(network).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
    inputs, labels = torch.randn(shape).contiguous(memory_format=torch.channels_last), torch.randint(0, 10, shape[:1])

    def step() -> float:
        start = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        backward(functional.cross_entropy(network(inputs), labels))
        optimizer.step()
        return time.process_time() - start

    return step


def main() -> None:
    """Print medians and the median ratio of pairs; which of a pair comes first alternates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.steps} pairs of steps, {arguments.threads} threads, torch {torch.__version__}")
    for name, (network, shape) in networks().items():
        own, plain = stepper(network, shape, run_backward), stepper(by_hand(network), shape, Tensor.backward)
        pairs = []
        for number in range(arguments.steps + arguments.steps // 10):
            first, second = (own, plain) if number % 2 else (plain, own)
            times = (first(), second())
            pairs.append(times if number % 2 else times[::-1])
        pairs = pairs[arguments.steps // 10 :]
        ratios = [ours / theirs for ours, theirs in pairs]
        low, middle, high = statistics.quantiles(ratios, n=4)
        ours, theirs = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"{name:28} {ours:8.2f} ms, by hand {theirs:8.2f} ms: {middle:.3f}× (quartiles {low:.3f} to {high:.3f})",
            flush=True,
        )


if __name__ == "__main__":
    main()

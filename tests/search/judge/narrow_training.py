"""Every method on a network that oneDNN trains wrongly, against the same in float64; run in a process of its own.

    python narrow_training.py THREADS

Prints what was compared, then what differs.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from methods.base import Compressor, example_input
from methods.registry import create, methods
from models.data.training_batches import TrainingBatches
from models.tasks.classification import CLASSIFICATION
from search.judge.finetune import finetune
from search.recipe import Recipe

SHAPE = (1, 16, 16)
STEPS = 4
RECIPE = Recipe(epochs=STEPS / 2, batch_size=32, lr=0.02, distill_weight=0)
# Of a tensor's largest entry. Rounding over four steps stays below 1e-4; without the mend the error is 0.05 or more.
TOLERANCE = 5e-3


class Noise(TrainingBatches):
    """64 random images, not augmented, in one precision."""

    def __init__(self, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(1)
        self._images = torch.randn(64, *SHAPE, generator=generator).to(dtype).to(memory_format=torch.channels_last)
        self.labels = torch.randint(0, 10, (64,), generator=generator)

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> Noise:
        raise NotImplementedError

    def batches(
        self, batch_size: int, *, seed: int | None = None, augment: bool = False, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self._images.split(batch_size), self.labels.split(batch_size), strict=True)


def narrow_network() -> nn.Module:
    """Its second convolution is 1×1 with a stride and has 5 input channels."""
    torch.manual_seed(0)
    first = [nn.Conv2d(1, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.ReLU()]
    second = [nn.Conv2d(5, 10, 1, stride=2, bias=False), nn.BatchNorm2d(10), nn.ReLU()]
    third = [nn.Conv2d(10, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU()]
    last = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10)]
    return nn.Sequential(*first, *second, *third, *last).eval().to(memory_format=torch.channels_last)


def trained(compressor: Compressor, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a compressed network after a few steps of fine-tuning."""
    allocation = compressor.allocation([len(site.settings) // 4 for site in compressor.sites])
    network = compressor.compress(allocation).to(dtype)
    tuning = compressor.tuning(allocation, network, steps=STEPS, lr=RECIPE.lr)
    finetune(network, CLASSIFICATION, Noise(dtype), RECIPE, seed=0, tuning=tuning)
    return network.state_dict()


def calibrated(name: str, dtype: torch.dtype) -> Compressor:
    compressor = create(name, narrow_network().to(dtype), example_input(SHAPE).to(dtype))
    compressor.calibrate(Noise(dtype).batches(32))
    return compressor


def compare(what: str, own: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    print(what, flush=True)
    for name, expected in exact.items():
        largest = float(expected.abs().max().clamp(min=1e-3))
        if own[name].shape != expected.shape or float((own[name] - expected).abs().max()) > TOLERANCE * largest:
            print(f"wrong {name}", flush=True)


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    for name in methods():
        compressor = create(name, narrow_network(), example_input(SHAPE))
        compressor.calibrate(Noise(torch.float32).batches(32))
        compare(f"train {name}", trained(compressor, torch.float32), trained(copy.deepcopy(compressor), torch.float64))
    # Scores decide which channels stay: a calibration with wrong gradients keeps others.
    for name in methods():
        own, exact = calibrated(name, torch.float32), calibrated(name, torch.float64)
        allocation = own.allocation([len(site.settings) // 2 for site in own.sites])
        compare(f"calibrate {name}", own.compress(allocation).state_dict(), exact.compress(allocation).state_dict())


if __name__ == "__main__":
    main()

"""Fine-tuning against the loop that research scripts use: images per second, on the same device, in the same run.

    python benchmarks/throughput.py [--network resnet56] [--batch-size 128] [--steps 200] [--json]

The plain loop decodes nothing (CIFAR's usual pickled arrays are in memory) but does what such scripts do: PIL images,
torchvision's RandomCrop, flip, ToTensor and Normalize in DataLoader workers, float32, `loss.item()` at every step. Both
distil from a dense network of the same size. `of the chip` is the multiply-adds that the step needs, times two, against
the rate of one large matrix product in the same precision. Images are random: what they show does not cost time.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from methods.base import example_input
from models.data.array_images import ArrayImages
from models.data.named_sets import NAMED_SETS
from models.devices import pick_device
from models.networks.catalog import build_network
from models.tasks.classification import CLASSIFICATION
from search.export.formats import count_flops
from search.judge.finetune import finetune
from search.judge.training_step import mixed_precision
from search.machine.host import count_cores, host_facts
from search.recipe import Recipe

INFO = NAMED_SETS["cifar10"]
IMAGES = 10_000
WARM_UP = 20  # steps that no rate counts


class PlainImages(Dataset[tuple[Tensor, int]]):
    """What research scripts read CIFAR-10 with."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray) -> None:
        self._pixels, self._labels = pixels, labels
        steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        self._transform = transforms.Compose([*steps, transforms.Normalize(INFO.mean, INFO.std)])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(Image.fromarray(self._pixels[index])), int(self._labels[index])


def plain_rate(
    network: nn.Module, teacher: nn.Module, pixels: np.ndarray, labels: np.ndarray, recipe: Recipe, steps: int,
    device: torch.device,
) -> float:  # fmt: skip
    """Images per second of the plain loop."""
    loader = DataLoader(PlainImages(pixels, labels), recipe.batch_size, shuffle=True, num_workers=min(count_cores(), 8),
                        pin_memory=device.type == "cuda", drop_last=True, persistent_workers=True)  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    network.train()
    batches, start = _endless(loader), 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            start = time.perf_counter()
        inputs, targets = (each.to(device, non_blocking=True) for each in next(batches))
        logits = network(inputs)
        with torch.no_grad():
            wanted = (teacher(inputs) / recipe.temperature).log_softmax(1)
        soft = (logits / recipe.temperature).log_softmax(1)
        divergence = functional.kl_div(soft, wanted, reduction="batchmean", log_target=True)
        weight = recipe.distill_weight
        loss = (1 - weight) * functional.cross_entropy(logits, targets) + weight * recipe.temperature**2 * divergence
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
    return steps * recipe.batch_size / (time.perf_counter() - start)


def _endless(loader: DataLoader[tuple[Tensor, int]]) -> Iterator[list[Tensor]]:
    while True:
        yield from loader


def our_rate(network: nn.Module, teacher: nn.Module, images: ArrayImages, recipe: Recipe, steps: int) -> float:
    """Images per second of `search.judge.finetune`."""
    epochs, device = (WARM_UP + steps) / images.epoch_steps(recipe.batch_size), next(network.parameters()).device
    marks: dict[int, float] = {}

    def note(done: int, _: int) -> None:
        if done in (WARM_UP, WARM_UP + steps):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            marks[done] = time.perf_counter()

    whole = recipe.model_copy(update={"epochs": epochs})
    finetune(network, CLASSIFICATION, images, whole, seed=0, device=device, teacher=teacher, on_step=note)
    return steps * recipe.batch_size / (marks[WARM_UP + steps] - marks[WARM_UP])


def chip_rate(device: torch.device) -> float:
    """FLOP/s (two for a multiply-add) of a large matrix product at the precision of fine-tuning."""
    size = 8192 if device.type == "cuda" else 1536
    dtype = torch.bfloat16 if mixed_precision(device)._enabled else torch.float32
    a, best = torch.randn(size, size, device=device, dtype=dtype), 0.0
    for _ in range(5):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet56")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    device, rng = pick_device(None), np.random.default_rng(0)
    pixels = rng.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, IMAGES)
    network = build_network(arguments.network, classes=10).to(device)
    recipe = Recipe(batch_size=arguments.batch_size)
    macs = count_flops(network.eval(), example_input(INFO.shape, device))
    images = ArrayImages.on_device(torch.from_numpy(pixels), torch.from_numpy(labels), INFO, device)
    teacher = copy.deepcopy(network).eval()
    plain = plain_rate(copy.deepcopy(network), teacher, pixels, labels, recipe, arguments.steps, device)
    ours = our_rate(network, teacher, images, recipe, arguments.steps)
    needed = 2 * macs * (3 + 1)  # forward, and backward twice that; the teacher's forward
    record = {
        "plain images/s": round(plain),
        "ours images/s": round(ours),
        "ratio": round(ours / plain, 2),
        "of the chip": round(ours * needed / chip_rate(device), 4),
        **host_facts(device),
    }
    print(json.dumps(record) if arguments.json else "\n".join(f"{key:16}{value}" for key, value in record.items()))


if __name__ == "__main__":
    main()
